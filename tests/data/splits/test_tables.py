import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from suffice.data.splits import categories
from suffice.data.splits.categories import Hashed, Vocabulary
from suffice.data.splits.tables import Columns, TableSplit


@pytest.fixture
def file(tmp_path):
    """Return a table of 1,000 rows in row groups of 64: x is the row number, c is x modulo 7, the label x modulo 3."""
    x = np.arange(1000)
    columns = {
        "x": pa.array(x.astype(np.float32)),
        "c": pa.array((x % 7).astype(np.uint32), mask=x % 10 == 0),
        "y": pa.array((x % 3).astype(np.uint8)),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet", row_group_size=64)
    return tmp_path / "rows.parquet"


def table(file, which=0, split=None, **facts):
    split = np.zeros(1000, np.uint8) if split is None else split
    columns = Columns("y", ("x",), ("c",), **facts)
    return TableSplit(file, columns, Vocabulary((np.arange(7, dtype=np.uint32),)), split, which)


@pytest.mark.parametrize("size", [1, 50, 64, 100, 3000])
def test_batches_are_in_order_and_whole_whatever_the_row_groups(file, size):
    seen = list(table(file).batches(size, shuffle=False))
    assert [len(b["labels"]) for b in seen] == [size] * (1000 // size) + ([1000 % size] if 1000 % size else [])
    x = torch.cat([b["numeric"][:, 0] for b in seen])
    assert x.tolist() == list(range(1000))
    assert torch.equal(torch.cat([b["labels"] for b in seen]), x.long() % 3)
    expected = torch.where(x.long() % 10 == 0, 0, x.long() % 7 + 1)
    assert torch.equal(torch.cat([b["categorical"][:, 0] for b in seen]), expected)
    assert len(table(file).batches(size, shuffle=False)) == len(seen)


def test_the_splits_of_a_table_share_its_rows_out(file):
    split = np.random.default_rng(0).integers(0, 3, 1000).astype(np.uint8)
    split[128:192] = 0
    for which in range(3):
        part = table(file, which, split)
        x = torch.cat([b["numeric"][:, 0] for b in part.batches(100, shuffle=False)])
        assert x.tolist() == np.flatnonzero(split == which).tolist()
        assert len(part) == len(x)
        assert part.labels.tolist() == (np.flatnonzero(split == which) % 3).tolist()


@pytest.mark.parametrize("block", [1, 4, 100])
def test_a_shuffled_pass_covers_the_split_once_and_differs_from_the_next(file, block, generator):
    split = (np.arange(1000) % 5 == 0).astype(np.uint8)
    loader = table(file, 0, split).shuffled(30, generator=generator, block=block)
    first, second = (torch.cat([b["numeric"][:, 0] for b in loader]) for _ in range(2))
    assert first.tolist() != second.tolist()
    assert sorted(first.tolist()) == sorted(second.tolist()) == np.flatnonzero(split == 0).tolist()


def test_rows_stay_whole_when_shuffled(file, generator):
    for batch in table(file).shuffled(30, generator=generator):
        assert torch.equal(batch["numeric"][:, 0].long() % 3, batch["labels"])


def test_a_block_of_all_row_groups_is_a_full_shuffle(file, generator):
    loader = table(file).shuffled(1000, generator=generator, block=100)
    (batch,) = loader
    steps = batch["numeric"][:, 0].diff().abs()
    assert steps.mean() > 250  # 333 of independent rows; within a group of 64 it would be 21


def test_the_same_seed_gives_the_same_batches(file):
    a, b = (list(table(file).shuffled(30, generator=torch.Generator().manual_seed(3))) for _ in range(2))
    assert all(torch.equal(p["numeric"], q["numeric"]) for p, q in zip(a, b, strict=True))


def test_a_logarithm_keeps_the_sign_and_a_missing_number_is_zero(tmp_path):
    columns = {"x": pa.array([-3.0, None, 7.0]), "y": pa.array([0, 1, 0])}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    made = TableSplit(tmp_path / "t.parquet", Columns("y", ("x",), (), ("x",)), Hashed(0, 2), np.zeros(3, np.uint8), 0)
    (batch,) = made.batches(shuffle=False)
    torch.testing.assert_close(batch["numeric"][:, 0], torch.tensor([-np.log(4), 0, np.log(8)], dtype=torch.float32))
    assert "categorical" not in batch


def test_an_empty_split_yields_nothing(file):
    assert list(table(file, which=2).batches()) == []
    assert len(table(file, which=2)) == 0
    assert table(file, which=2).labels.tolist() == []


def test_only_the_asked_columns_of_a_block_are_held(file, generator):
    """Check that a pass reads one block of row groups at a time."""
    made, sizes = table(file), []
    read = TableSplit.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TableSplit, "read", lambda self, groups: sizes.append(len(groups)) or read(self, groups))
        list(made.shuffled(30, generator=generator, block=4))
    assert sizes == [4, 4, 4, 4]


def test_codes_are_counted_over_blocks_as_over_the_whole(monkeypatch):
    monkeypatch.setattr(categories, "_MOST", 50)
    codes = np.random.default_rng(0).zipf(1.3, 5000).astype(np.uint32) % 400
    values, counts = np.unique(codes, return_counts=True)
    for min_frequency in (1, 3, 10_000):
        found = categories.frequent_codes(np.split(codes, 25), min_frequency)
        assert found.tolist() == values[counts >= min_frequency].tolist()


def test_a_vocabulary_of_nothing_knows_nothing():
    empty = Vocabulary((np.empty(0, np.uint32),))
    assert empty.index(0, np.array([1, 2], np.uint32), np.zeros(2, bool)).tolist() == [0, 0]
    assert Vocabulary.from_arrays(empty.arrays()).sizes == (1,)


def test_hashed_indices_are_spread_evenly_and_differ_between_fields():
    codes = np.arange(100_000, dtype=np.uint32)
    none = np.zeros(len(codes), bool)
    hashed = Hashed(2, 101)
    a, b = hashed.index(0, codes, none), hashed.index(1, codes, none)
    for index in (a, b):
        counts = np.bincount(index, minlength=101)
        assert counts[0] == 0
        assert (np.abs(counts[1:] - 1000) < 150).all()  # over four standard deviations of 31
    assert 0.005 < (a == b).mean() < 0.015
    assert hashed.index(0, codes, ~none).max() == 0


def test_the_hash_is_splitmix64_as_published():
    state = 1234567
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    step = 0x9E3779B97F4A7C15
    inputs = np.array([(state + i * step) % 2**64 for i in range(3)], dtype=np.uint64)
    assert categories._splitmix64(inputs).tolist() == published


@pytest.mark.parametrize("labels", [[0, None], [0, -1], [0.0, float("nan")], [0.0, float("inf")]])
def test_labels_that_are_none_are_never_numbers_of_a_class(tmp_path, labels):
    pq.write_table(pa.table({"x": pa.array([1.0, 2.0]), "y": labels}), tmp_path / "t.parquet")
    made = TableSplit(tmp_path / "t.parquet", Columns("y", ("x",)), Hashed(0, 2), np.zeros(2, np.uint8), 0)
    with pytest.raises(ValueError, match=r"import (the set|it) again"):
        list(made.batches())
    with pytest.raises(ValueError, match=r"import (the set|it) again"):
        _ = made.labels


def test_whole_numbers_beyond_those_of_float32_are_rounded(tmp_path):
    columns = {"x": pa.array([23_159_457, -(2**31), None], pa.int32()), "y": pa.array([0, 1, 0])}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    made = TableSplit(tmp_path / "t.parquet", Columns("y", ("x",)), Hashed(0, 2), np.zeros(3, np.uint8), 0)
    (batch,) = made.batches(shuffle=False)
    assert batch["numeric"][:, 0].tolist() == [float(np.float32(23_159_457)), -(2.0**31), 0]
