import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from suffice.data import import_set, load
from suffice.data.sources import criteo
from tests.data import miniatures


@pytest.fixture
def official(tmp_path):
    lines, values = miniatures.criteo_lines(700)
    (tmp_path / "train.txt").write_text("".join(lines))
    return tmp_path / "train.txt", values


@pytest.mark.parametrize("block", [8 << 20, 4000])
def test_every_cell_of_the_official_text_is_kept_whatever_the_blocks(official, monkeypatch, block):
    monkeypatch.setattr("suffice.data.formats.tables.lines.BLOCK", block)
    file, values = official
    table = import_set("criteo", file).table("rows")
    assert table["label"].to_pylist() == [label for label, _, _ in values]
    for place, name in enumerate(criteo._NUMERIC):
        assert table[name].to_pylist() == [numbers[place] for _, numbers, _ in values]
    for place, name in enumerate(criteo._CATEGORICAL):
        assert table[name].to_pylist() == [codes[place] for _, _, codes in values]


def test_the_archive_and_the_folder_are_read_too(official, tmp_path):
    file, _ = official
    archive = miniatures.write_tar(tmp_path / "dac.tar.gz", {"readme.txt": b"x", "train.txt": file.read_bytes()})
    for source in (archive, tmp_path):
        assert import_set("criteo", source).manifest["parts"] == {"all": 700}


def test_no_checksum_is_known_so_the_one_found_is_recorded(official):
    import hashlib

    file, _ = official
    (given,) = import_set("criteo", file).manifest["source"]
    assert given["checksum"] == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert not given["official"]


def test_rows_are_split_by_time_and_loaded_with_logarithms_and_zero_for_missing(official):
    file, values = official
    import_set("criteo", file)
    data = load("criteo", validation=50, test=100, categories="hashed", buckets=1000)
    assert (len(data.train), len(data.validation), len(data.test)) == (550, 50, 100)
    (batch,) = data.validation.batches()
    held = values[550:600]
    assert batch["labels"].tolist() == [label for label, _, _ in held]
    expected = [[0 if n is None else np.sign(n) * np.log1p(abs(n)) for n in numbers] for _, numbers, _ in held]
    np.testing.assert_allclose(batch["numeric"].numpy(), expected, rtol=1e-6)
    missing = torch.tensor([[code is None for code in codes] for _, _, codes in held])
    assert torch.equal(batch["categorical"] == 0, missing)
    assert batch["categorical"].max() < 1000


def test_a_vocabulary_holds_what_is_frequent_in_training_and_nothing_of_the_test_rows(official):
    file, values = official
    import_set("criteo", file)
    data = load("criteo", validation=50, test=100, min_frequency=20)
    (batch,) = data.test.batches()
    for place in range(26):
        seen = [codes[place] for _, _, codes in values[:550] if codes[place] is not None]
        known = sorted({code for code in seen if seen.count(code) >= 20})
        assert data.train.sizes[place] == len(known) + 1
        expected = [known.index(c[place]) + 1 if c[place] in known else 0 for _, _, c in values[600:]]
        assert batch["categorical"][:, place].tolist() == expected
    unknown = data.test.unknown()
    first = [codes[0] for _, _, codes in values[600:] if codes[0] is not None]
    assert unknown["C1"] == len(first) - int((batch["categorical"][:, 0] > 0).sum())


def test_unknown_categories_are_refused_by_choice(official):
    file, _ = official
    import_set("criteo", file)
    data = load("criteo", min_frequency=30, unknown="refuse")
    with pytest.raises(ValueError, match="expected only categories of C1 that occur in the training rows, got"):
        list(data.test.batches())
    assert data.test.unknown()["C1"] > 0


BROKEN = [
    (lambda cells: cells[:39], "expected 40 fields, got 39"),
    (lambda cells: [*cells, ""], "expected 40 fields, got 41"),
    (lambda cells: ["x", *cells[1:]], "expected label as uint8, got 'x'"),
    (lambda cells: [*cells[:5], "12.5", *cells[6:]], "expected I5 as int32, got '12.5'"),
    (lambda cells: [*cells[:20], "not hex!", *cells[21:]], "expected C7 as up to 8 hexadecimal digits, got 'not hex!'"),
    (lambda cells: [*cells[:20], "123456789", *cells[21:]], "expected C7 as .* hexadecimal digits, got '123456789'"),
    (lambda cells: [*cells[:20], "\udcff", *cells[21:]], "expected C7 as up to 8 hexadecimal"),
    (lambda cells: [""], "expected 40 fields, got 1"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_a_malformed_line_is_refused_by_its_number_or_left_out_and_counted(tmp_path, store_folder, change, message):
    lines, values = miniatures.criteo_lines(30)
    cells = lines[16].rstrip("\n").split("\t")
    lines[16] = "\t".join(change(cells)) + "\n"
    (tmp_path / "train.txt").write_text("".join(lines), errors="surrogateescape")
    with pytest.raises(ValueError, match=rf"line 17 of .*train.txt: {message}"):
        import_set("criteo", tmp_path / "train.txt")
    assert not (store_folder / "criteo").exists()
    stored = import_set("criteo", tmp_path / "train.txt", bad="skip")
    kept = values[:16] + values[17:]
    table = stored.table("rows")
    assert table["label"].to_pylist() == [label for label, _, _ in kept]
    assert table["C26"].to_pylist() == [codes[25] for _, _, codes in kept]
    assert stored.manifest["skipped"]["count"] == 1
    assert "line 17" in stored.manifest["skipped"]["first"][0]


def test_lines_are_numbered_through_all_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("suffice.data.formats.tables.lines.BLOCK", 3000)
    lines, _ = miniatures.criteo_lines(100)
    lines[89] = "broken\n"
    (tmp_path / "train.txt").write_text("".join(lines))
    with pytest.raises(ValueError, match=r"^line 90 of"):
        import_set("criteo", tmp_path / "train.txt")


def test_a_text_that_ends_without_a_line_end_loses_no_row(tmp_path):
    lines, _ = miniatures.criteo_lines(3)
    (tmp_path / "train.txt").write_text("".join(lines).rstrip("\n"))
    assert import_set("criteo", tmp_path / "train.txt").manifest["parts"] == {"all": 3}


def test_a_truncated_archive_is_refused(official, tmp_path):
    file, _ = official
    archive = miniatures.write_tar(tmp_path / "dac.tar.gz", {"train.txt": file.read_bytes()})
    archive.write_bytes(archive.read_bytes()[:-20_000])
    with pytest.raises(ValueError, match="truncated or damaged"):
        import_set("criteo", archive)


def test_an_archive_without_the_file_is_refused(tmp_path):
    archive = miniatures.write_tar(tmp_path / "dac.tar.gz", {"test.txt": b"x"})
    with pytest.raises(ValueError, match=r"expected train.txt in"):
        import_set("criteo", archive)


def test_the_official_sample_is_the_same_text_by_another_name(tmp_path):
    lines, _ = miniatures.criteo_lines(20)
    archive = miniatures.write_tar(tmp_path / "dac_sample.tar.gz", {"dac_sample.txt": "".join(lines).encode()})
    assert import_set("criteo-sample", archive).manifest["parts"] == {"all": 20}


def test_compact_files_hold_numbers_or_text_and_come_out_alike(tmp_path):
    _, values = miniatures.criteo_lines(20)
    (tmp_path / "criteo").mkdir()
    columns = {"label": pa.array([label for label, _, _ in values], pa.uint8())}
    columns |= {f"I{i + 1}": pa.array([n[i] for _, n, _ in values], pa.int32()) for i in range(13)}
    codes = {f"C{i + 1}": [c[i] for _, _, c in values] for i in range(26)}
    hashed = {name: pa.array([c and c % 2**20 for c in column], pa.int32()) for name, column in codes.items()}
    hexed = {name: pa.array([None if c is None else f"{c:08x}" for c in column]) for name, column in codes.items()}
    pq.write_table(pa.table({**columns, **hashed}), tmp_path / "criteo" / "dac_sample_80k_hashed.parquet")
    pq.write_table(pa.table({**columns, **hexed}), tmp_path / "criteo" / "first_8000_raw.parquet")
    sample, head = import_set("criteo-sample", tmp_path), import_set("criteo-head", tmp_path)
    assert sample.table("rows").schema == head.table("rows").schema
    assert head.table("rows")["C3"].to_pylist() == codes["C3"]
    assert sample.table("rows")["C3"].to_pylist() == hashed["C3"].to_pylist()
    assert sample.table("rows")["I2"].to_pylist() == [n[1] for _, n, _ in values]
    assert "20-bit" in sample.manifest["notes"][0]


def test_the_head_is_known_from_the_compact_file_only(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected first_8000_raw.parquet in"):
        import_set("criteo-head", tmp_path)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("", "expected label as a number from 0 to 1, got none"),
        ("7", "expected label as a number from 0 to 1, got 7"),
        ("2", "expected label as a number from 0 to 1, got 2"),
        ("-1", "expected label as uint8, got '-1'"),
        ("256", "expected label as uint8, got '256'"),
        ("1.0", "expected label as uint8, got '1.0'"),
        ("nan", "expected label as uint8, got 'nan'"),
        ("0x1", "expected label as uint8, got '0x1'"),
    ],
)
def test_a_label_that_is_neither_click_nor_none_is_refused_by_its_line_or_left_out(tmp_path, label, message):
    lines, values = miniatures.criteo_lines(30)
    lines[16] = label + lines[16][1:]
    (tmp_path / "dac_sample.txt").write_text("".join(lines))
    with pytest.raises(ValueError, match=rf"^line 17 of .*dac_sample.txt: {message}"):
        import_set("criteo-sample", tmp_path / "dac_sample.txt")
    import_set("criteo-sample", tmp_path / "dac_sample.txt", bad="skip")
    data = load("criteo-sample", validation=1, test=1)
    found = torch.cat([part.labels for part in (data.train, data.validation, data.test)])
    assert found.tolist() == [value for place, (value, _, _) in enumerate(values) if place != 16]


@pytest.mark.parametrize("feed", ["\n", "\r\n", "\r"])
def test_line_ends_of_any_system_are_read(tmp_path, feed):
    lines, values = miniatures.criteo_lines(30)
    (tmp_path / "train.txt").write_bytes("".join(lines).replace("\n", feed).encode())
    table = import_set("criteo", tmp_path / "train.txt").table("rows")
    assert table["C26"].to_pylist() == [codes[25] for _, _, codes in values]


@pytest.mark.parametrize("text", ["", "\n"])
def test_a_text_without_rows_is_refused(tmp_path, store_folder, text):
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(
        ValueError, match=r"expected 40 fields, got 1|expected rows in .*train.txt, found none that could be imported"
    ):
        import_set("criteo", tmp_path / "train.txt")
    assert not (store_folder / "criteo").exists()


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("label", pa.array([0, None]), "row 2 of .*raw.parquet: expected label as a number from 0 to 1, got none"),
        ("label", pa.array([0, 2]), "row 2 of .*raw.parquet: expected label as a number from 0 to 1, got 2"),
        ("label", pa.array([0, -1]), "row 2 of .*raw.parquet: expected label as uint8, got -1"),
        ("label", pa.array([0, float("nan")]), "row 2 of .*raw.parquet: expected label as uint8, got nan"),
        ("label", pa.array([[0], [1]]), "in the column 'label' of .*raw.parquet, got list"),
        ("I3", pa.array([0, 2**40]), "row 2 of .*: expected I3 as int32, got 1099511627776"),
        ("C4", pa.array(["0", "xyz"]), "row 2 of .*: expected C4 as up to 8 hexadecimal digits, got 'xyz'"),
        ("C4", pa.array([0, -5]), "row 2 of .*: expected C4 as uint32, got -5"),
        ("C4", None, "found no 'C4' in .*raw.parquet"),
    ],
)
def test_compact_files_have_the_same_rules(tmp_path, column, values, message):
    columns = {"label": pa.array([0, 1])} | {f"I{i}": pa.array([1, None]) for i in range(1, 14)}
    columns |= {f"C{i}": pa.array(["ab", None]) for i in range(1, 27)} | {column: values}
    table = pa.table({name: array for name, array in columns.items() if array is not None})
    pq.write_table(table, tmp_path / "first_8000_raw.parquet")
    for source in (tmp_path, tmp_path / "first_8000_raw.parquet"):
        with pytest.raises(ValueError, match=message):
            import_set("criteo-head", source)
