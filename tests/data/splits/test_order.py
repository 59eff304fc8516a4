"""The order of batches: fixed and random for a training split, as stored for the others."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from suffice.data import folder, from_torch
from suffice.data.sources import digits
from suffice.data.splits import order
from suffice.data.splits.categories import Hashed
from suffice.data.splits.images import Images
from suffice.data.splits.tables import Columns, TableSplit
from tests.data import miniatures


def images(tmp_path, training):
    return Images(torch.rand(90, 1, 2, 2), torch.arange(90) // 30, training=training)


def photographs(tmp_path, training):
    data = folder(miniatures.image_folder(tmp_path / "pets"), validation=0, test=0, size=8, workers=0)
    return data.train if training else data.test.subset(torch.arange(0))


def table(tmp_path, training):
    columns = {"x": pa.array(range(90), pa.float32()), "y": pa.array(sorted([0, 1, 2] * 30))}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=20)
    which = 0 if training else 1
    return TableSplit(tmp_path / "t.parquet", Columns("y", ("x",)), Hashed(0, 2), np.full(90, which, np.uint8), which)


def items(tmp_path, training):
    dataset = torch.utils.data.TensorDataset(torch.rand(120, 2), torch.arange(120) // 30)
    data = from_torch(dataset, validation=30, test_size=0)
    return data.train if training else data.validation


def labels(loader):
    parts = [batch["labels"] if isinstance(batch, dict) else batch[1] for batch in loader]
    return torch.cat(parts).tolist() if parts else []


KINDS = pytest.mark.parametrize("split", [images, photographs, table, items])


@KINDS
def test_batches_of_a_training_split_are_shuffled_the_same_way_in_each_pass_and_complete(split, tmp_path):
    part = split(tmp_path, training=True)
    loader = part.batches(30)
    first, stored = labels(loader), labels(part.batches(30, shuffle=False))
    assert first == labels(loader) == labels(part.batches(30))
    assert first != stored
    assert sorted(first) == sorted(stored)


@KINDS
def test_batches_of_another_split_are_in_the_stored_order_unless_shuffled(split, tmp_path):
    part = split(tmp_path, training=False)
    stored = labels(part.batches(30))
    assert stored == labels(part.batches(30, shuffle=False)) == sorted(stored)
    shuffled = labels(part.batches(30, shuffle=True))
    assert sorted(shuffled) == stored
    assert shuffled != stored or not stored


def test_inputs_keep_their_labels():
    part = Images(torch.arange(90.0).reshape(90, 1, 1, 1), torch.arange(90), training=True)
    for x, y in part.batches(7):
        assert torch.equal(x.flatten().long(), y)


def test_a_subset_of_a_training_split_is_one_and_the_other_splits_are_none():
    data = digits.load(0)
    assert data.train.subset(torch.arange(50)).training
    assert not data.validation.training
    assert not data.test.training


def test_the_fixed_order_needs_and_changes_no_random_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(order.positions(50, shuffle=True), order.positions(50, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)
