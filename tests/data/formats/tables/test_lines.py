"""Rows of delimited text, compared with a grammar of rows."""

import csv
import io
import random
import re

import pytest

from suffice.data.formats.tables import lines, text
from suffice.data.formats.tables.lines import Dialect
from suffice.data.store.bad_records import BadRecords

PLAIN = Dialect(",")
QUOTED = Dialect(",", '"', text=True)
MULTILINE = Dialect(",", '"', multiline=True, text=True)

FIELD = r'(?:[^",\n]*|"(?:[^"\n]|"")*")'
"""A field of RFC 4180 on one line."""


def read(data, dialect, fields):
    """Return the rows as lists, the line number of each, and the bad records."""
    bad_records = BadRecords(skip=True)
    blocks = lines.read_blocks(io.BytesIO(data), dialect, "x")
    rows, numbers = [], []
    for found in text.read_rows(blocks, [str(place) for place in range(fields)], dialect, "x", bad_records):
        rows += [list(row.values()) for row in found.table.to_pylist()]
        numbers += found.numbers.tolist()
    return rows, numbers, bad_records


def parsed(line, fields):
    """Return the fields of a line according to the grammar, or None."""
    if not re.fullmatch(rf"{FIELD}(?:,{FIELD}){{{fields - 1}}}", line):
        return None
    (row,) = csv.reader([line], strict=True)
    return [cell or None for cell in row]


@pytest.mark.parametrize("block", [7, 40, 1 << 20])
@pytest.mark.parametrize("feed", ["\n", "\r\n", "\r"])
def test_a_line_is_a_row_or_a_fault_as_the_grammar_says_whatever_the_blocks(monkeypatch, block, feed):
    draw = random.Random(block)
    accepted = refused = 0
    for _ in range(300):
        written = ["".join(draw.choices('ab,,""é', k=draw.randrange(7))) for _ in range(draw.randrange(1, 12))]
        monkeypatch.setattr(lines, "BLOCK", max(block, 1 + max(len(line.encode()) for line in written) + len(feed)))
        rows, numbers, bad_records = read((feed.join(written) + draw.choice(["", feed])).encode(), QUOTED, 2)
        expected = [(place, parsed(line, 2)) for place, line in enumerate(written, start=1)]
        assert list(zip(numbers, rows, strict=True)) == [(n, row) for n, row in expected if row is not None]
        blank = sum(line == "" for line in written)
        assert len(rows) + bad_records.count + blank == len(written)
        accepted, refused = accepted + len(rows), refused + bad_records.count
    assert min(accepted, refused) > 100


@pytest.mark.parametrize("block", [60, 1 << 20])
def test_values_that_hold_line_ends_are_read_as_python_reads_them(monkeypatch, block):
    monkeypatch.setattr(lines, "BLOCK", block)
    draw = random.Random(block)
    for _ in range(300):
        table = [["".join(draw.choices('ab,"\nc', k=draw.randrange(6))) for _ in range(3)] for _ in range(8)]
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(table)
        rows, numbers, bad_records = read(out.getvalue().encode(), MULTILINE, 3)
        assert rows == [[cell or None for cell in row] for row in table]
        assert bad_records.count == 0
        heights = [1 + sum(cell.count("\n") for cell in row) for row in table]
        assert numbers == [1 + sum(heights[:place]) for place in range(len(table))]


def test_any_text_in_any_dialect_is_read_or_refused_and_nothing_else(monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", 50)
    draw = random.Random(0)
    alphabet = [b"a", b",", b'"', b"\n", b"\r", b"\0", b"\xe9", "é".encode(), b" ", b";", b"'"]
    for _ in range(1500):
        data = b"".join(draw.choices(alphabet, k=draw.randrange(120)))
        dialect = draw.choice([PLAIN, QUOTED, MULTILINE, Dialect(";", "'", text=True), Dialect(" ", '"', True, True)])
        if not dialect.text:
            data = data.decode(errors="ignore").encode()
        try:
            rows, numbers, bad_records = read(data, dialect, 2)
        except ValueError as error:
            message = str(error)
        else:
            message = ""
            assert len(rows) == len(numbers)
            if not dialect.multiline:
                written = len(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n"))
                assert len(rows) + bad_records.count <= written
                if dialect is PLAIN and data:
                    assert len(rows) + bad_records.count == written
        assert re.fullmatch(r"|line \d+ of x: expected .*", message)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'1,"k', "expected quotes in pairs on each line"),
        (b'1,k"', "expected quotes around whole values"),
        (b'1,"k"x', "expected quotes around whole values"),
        (b'1, "k"', "expected quotes around whole values"),
        (b'1,"a\\"b"', "expected quotes around whole values"),
        (b"1", "expected 2 fields, got 1"),
        (b"1,2,3", "expected 2 fields, got 3"),
        (b"1,\0", "expected text, got a null byte"),
        (b"1,\xe9", "expected UTF-8, got the byte 0xe9; state the file's encoding in the schema"),
        (b"1,\xed\xa0\x80", "expected UTF-8, got the byte 0xed"),
    ],
)
def test_a_fault_costs_its_line_alone_and_says_why(line, why):
    rows, numbers, bad_records = read(b"1,a\n\n" + line + b"\n2,b\n", QUOTED, 2)
    assert rows == [["1", "a"], ["2", "b"]]
    assert numbers == [1, 4]
    assert bad_records.first[0].startswith(f"line 3 of x: {why}")
    assert bad_records.count == 1


def test_without_quotes_a_quote_is_a_sign_like_others():
    assert read(b'5",x\n"a,b"\n', Dialect(",", text=True), 2)[0] == [['5"', "x"], ['"a', 'b"']]


def test_a_quote_that_is_never_closed_is_named_by_where_it_opens(monkeypatch):
    data = b"1,a\n2,b\n" + b'3,"c\n' + b"4,d\n" * 30
    with pytest.raises(ValueError, match="line 3 of x: expected quotes in pairs, got one that is never closed"):
        read(data, MULTILINE, 2)
    monkeypatch.setattr(lines, "BLOCK", 50)
    with pytest.raises(ValueError, match="line 3 of x: expected a row of text: a quote that opens there"):
        read(data, MULTILINE, 2)


def test_a_row_longer_than_a_block_is_refused_and_one_nearly_as_long_is_read(monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", 1 << 21)  # more than Arrow's own block
    long = b"1," + b"x" * ((1 << 21) - 10)
    rows, _, _ = read(b"0,a\n" + long + b"\n2,b\n", QUOTED, 2)
    assert [len(row[1]) for row in rows] == [1, (1 << 21) - 10, 1]
    with pytest.raises(ValueError, match="line 2 of x: expected a row of text, which is longer than 2,097,152 bytes"):
        read(b"0,a\n" + long * 3, QUOTED, 2)


def test_the_first_row_is_parted_from_the_others():
    for dialect, data in ((QUOTED, b"\r\n\r\na,b\n1,2\n"), (MULTILINE, b'\n\n"a\nc",b\n1,2\n')):
        head, rest = lines.split_first_row(lines.read_blocks(io.BytesIO(data), dialect, "x"), dialect)
        assert (head.line, head.data.count(b",")) == (3, 1)
        (block,) = rest
        assert (block.line, block.data) == (4 + dialect.multiline, b"1,2\n")
    for data in (b"", b"\n\n"):
        head, rest = lines.split_first_row(lines.read_blocks(io.BytesIO(data), QUOTED, "x"), QUOTED)
        assert (head.data, list(rest)) == (b"", [])
