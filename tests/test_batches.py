import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from suffice.batches import peek, read, read_labeled, read_targets
from suffice.data.splits.images import Images

MODEL = nn.Linear(2, 3)
X, Y = torch.arange(10.0).reshape(5, 2), torch.tensor([0, 1, 2, 1, 0])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


@pytest.mark.parametrize(
    "loader",
    [
        [(X[:2], Y[:2]), (X[2:], Y[2:])],
        [[X[:2], Y[:2]], [X[2:], Y[2:]]],
        DataLoader(TensorDataset(X, Y), batch_size=2),
        DataLoader(Stream(), batch_size=2),
        ((X[i : i + 1], Y[i : i + 1]) for i in range(5)),
    ],
    ids=["tuples", "lists", "DataLoader", "without length", "generator"],
)
def test_any_iterable_of_pairs_is_a_loader_and_examples_are_counted(loader):
    pairs = [(batch, labels) for batch, labels in read_labeled(loader, MODEL, 3)]
    torch.testing.assert_close(torch.cat([batch.inputs for batch, _ in pairs]), X)
    assert torch.cat([labels for _, labels in pairs]).tolist() == Y.tolist()
    sizes = [batch.size for batch, _ in pairs]
    assert sum(sizes) == 5
    assert [batch.start for batch, _ in pairs] == [sum(sizes[:i]) for i in range(len(sizes))]


@pytest.mark.parametrize("form", [list, iter, lambda batches: (batch for batch in batches)])
def test_peek_loses_no_batch(form):
    batches = [(X[:0], Y[:0]), (X[:2], Y[:2]), (X[2:], Y[2:])]
    first, loader = peek(form(batches), MODEL)
    assert (first.size, first.start) == (2, 0)
    assert torch.equal(first.inputs, X[:2])
    assert torch.equal(torch.cat([batch.inputs for batch in read(loader, MODEL)]), X)


def test_peek_at_an_empty_loader_is_an_error():
    with pytest.raises(ValueError, match="empty loader"):
        peek(iter([]), MODEL)


def test_a_mapping_keeps_all_keys_except_the_labels():
    (batch,) = read([{"left": X, "right": {"deep": X}, "labels": Y}], MODEL)
    assert set(batch.inputs) == {"left", "right"}
    assert batch.labels.tolist() == Y.tolist()


@pytest.mark.parametrize("loader", [[X], [(X,)], [{"x": X}]], ids=["tensor", "one-tuple", "mapping"])
def test_inputs_without_labels_are_read_and_refused_where_labels_are_needed(loader):
    (batch,) = read(loader, MODEL)
    assert batch.labels is None
    with pytest.raises(ValueError, match="labels are needed here"):
        list(read_labeled(loader, MODEL, 3))


@pytest.mark.parametrize("key", ["label", "label_ids", "target", "y"])
def test_labels_under_another_key_are_refused_with_the_key_to_rename(key):
    with pytest.raises(ValueError, match=rf"got a mapping with the keys 'x', '{key}'; .*: rename '{key}' to 'labels'"):
        list(read_labeled([{"x": X, key: Y}], MODEL, 3))


def test_a_batch_of_three_is_refused_with_what_to_do_about_further_inputs():
    with pytest.raises(TypeError, match=r"got a list of 3; pass several inputs as one, \(\(x1, x2\), y\)"):
        list(read(DataLoader(TensorDataset(X, Y, Y), batch_size=5), MODEL))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_floating_inputs_are_cast_to_the_type_of_the_network_and_integers_are_not(dtype):
    (batch,) = read([({"x": X.double(), "ids": Y}, Y)], nn.Linear(2, 3).to(dtype))
    assert batch.inputs["x"].dtype == dtype
    assert batch.inputs["ids"].dtype == torch.int64


@pytest.mark.parametrize("loader", [[], iter([]), [(X[:0], Y[:0])]], ids=["list", "iterator", "empty batch"])
def test_an_empty_loader_is_an_error(loader):
    with pytest.raises(ValueError, match="at least one example, got an empty loader"):
        list(read(loader, MODEL))


def test_an_exhausted_generator_is_an_error_with_the_cause():
    generator = ((X, Y) for _ in range(1))
    list(read(generator, MODEL))
    with pytest.raises(ValueError, match="a generator is empty the second time"):
        list(read(generator, MODEL))


def test_an_empty_batch_in_the_middle_is_skipped():
    sizes = [batch.size for batch in read([(X, Y), (X[:0], Y[:0]), (X[:1], Y[:1])], MODEL)]
    assert sizes == [5, 1]


@pytest.mark.parametrize("bad", [-1, 3, 100])
def test_a_label_out_of_range_is_named_with_its_position(bad):
    wrong = Y.clone()
    wrong[3] = bad
    with pytest.raises(ValueError, match=rf"expected labels in \[0, 3\), got {bad} at position 8"):
        list(read_labeled([(X, Y), (X, wrong)], MODEL, 3))


@pytest.mark.parametrize(
    "labels",
    [Y.float(), Y[:4], nn.functional.one_hot(Y), Y[:, None]],
    ids=["floats", "too few", "one-hot", "column"],
)
def test_labels_of_a_wrong_type_or_shape_are_refused(labels):
    with pytest.raises(ValueError, match=r"expected integer labels of shape \(5,\), got torch\.\w+ of shape"):
        list(read_labeled([(X, labels)], MODEL, 3))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "uint32", "uint64", "int32"])
@pytest.mark.parametrize("num_classes", [3, 300])
def test_small_integer_labels_become_int64(dtype, num_classes):
    ((_, labels),) = read_labeled([(X, Y.to(getattr(torch, dtype)))], MODEL, num_classes)
    assert labels.dtype == torch.int64
    assert labels.tolist() == Y.tolist()


def test_labels_of_type_bool_are_those_of_two_classes():
    y = Y.clamp(max=1)
    ((_, labels),) = read_labeled([(X, y.bool())], MODEL, 2)
    assert labels.tolist() == y.tolist()
    with pytest.raises(ValueError, match="bool"):
        list(read_labeled([(X, y.bool())], MODEL, 3))


@pytest.mark.parametrize("y", [Y.numpy(), Y.numpy().astype(">i2")[::-1][::-1], Y.tolist(), list(Y)])
def test_labels_may_be_an_array_or_a_list(y):
    ((_, labels),) = read_labeled([(X, y)], MODEL, 3)
    assert labels.tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        (Y.float(), r"pass labels\.long\(\)"),
        (Y[:, None], r"pass labels\.squeeze\(1\)"),
        (nn.functional.one_hot(Y), r"of one-hot rows pass labels\.argmax\(dim=1\)"),
        (nn.functional.one_hot(Y).clamp(max=0), "none or several of the classes apply"),
        (torch.tensor([0, 1, torch.nan, 1, 0]), "NaN stands for a missing label"),
        (Y + 0.5, "pass a likelihood of numbers"),
        (torch.tensor([1, 2, 3, 1, 2]), "subtract 1 if they are counted from 1"),
        (torch.tensor([1, 2, -100, 1, 2]), "leave out examples without a label, if -100 stands for them"),
        (torch.tensor([1, -1, -1, 1, 1]), r"pass \(labels \+ 1\) // 2"),
    ],
)
def test_the_error_for_labels_states_what_to_do(labels, remedy):
    with pytest.raises(ValueError, match=remedy):
        list(read_labeled([(X, labels)], MODEL, 3))


@pytest.mark.parametrize("y", [["cat", "dog"], np.array(["cat", "dog"]), np.array([0, None], dtype=object)])
def test_labels_that_are_no_numbers_are_a_type_error(y):
    with pytest.raises(TypeError, match=r"with numbers as y, got .*; number the classes from 0"):
        list(read([(X[:2], y)], MODEL))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_input_that_is_not_finite_is_named_by_its_position_across_batches(bad):
    wrong = X.clone()
    wrong[1, 1] = bad
    with pytest.raises(ValueError, match="expected finite inputs, got NaN or infinity at position 6"):
        list(read([(X, Y), ({"a": X, "b": wrong}, Y)], MODEL))


@pytest.mark.parametrize("batch", ["text", 3, (X, Y, Y), (X, "label")])
def test_a_batch_of_another_form_is_a_type_error(batch):
    with pytest.raises(TypeError, match=r"expected a batch \(x, y\)"):
        list(read([batch], MODEL))


def test_targets_are_the_checked_labels_of_each_batch():
    def doubled(labels, batch):
        return 2 * labels + batch.start

    targets = [target.tolist() for _, target in read_targets([(X[:2], Y[:2]), (X[2:], Y[2:])], MODEL, doubled)]
    assert targets == [(2 * Y[:2]).tolist(), (2 * Y[2:] + 2).tolist()]
    with pytest.raises(ValueError, match="inputs alone"):
        list(read_targets([X], MODEL, doubled))


@pytest.mark.parametrize("form", [read, peek])
@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (TensorDataset(X, Y), "got a Dataset of single examples; wrap it in a DataLoader"),
        (Images(X, Y), r"got Images; pass its \.batches\(\)"),
        ((X, Y), r"got a pair of tensors; pass \[\(x, y\)\]"),
        (next(iter(DataLoader(TensorDataset(X, Y), batch_size=2))), r"got a pair of tensors; pass \[\(x, y\)\]"),
        (X, r"got a tensor; pass \[x\]"),
        (X.numpy(), r"got an array; pass \[x\]"),
        ((X.numpy(), Y.numpy()), r"got a pair of tensors; pass \[\(x, y\)\]"),
        ({"x": X}, r"got a mapping \(dict\); pass \[batch\]"),
        (None, "got NoneType; pass a DataLoader"),
        (3, "got int; pass a DataLoader"),
    ],
    ids=[
        "data set",
        "split",
        "pair",
        "one batch of a loader",
        "tensor",
        "array",
        "pair of arrays",
        "mapping",
        "nothing",
        "number",
    ],
)
def test_examples_that_are_not_in_batches_are_refused_with_a_remedy(form, loader, message):
    with pytest.raises(TypeError, match=rf"expected batches \(x, y\).*{message}"):
        next(iter(form(loader, MODEL)))


@pytest.mark.parametrize("loader", [[X, X], [X[:2], X[2:]], [(X, Y), (X, Y)], ((X, Y), (X, Y))])
def test_two_batches_are_not_mistaken_for_a_pair(loader):
    assert sum(batch.size for batch in read(loader, MODEL)) == sum(
        len(raw[0] if isinstance(raw, tuple) else raw) for raw in loader
    )


def test_the_two_batches_that_split_returns_are_both_read():
    x = torch.rand(12, 2)
    for loader in (x.split(6), x.split(7), x[:8].chunk(2), x[2:].split(5), x.split(4)):
        assert torch.equal(torch.cat([batch.inputs for batch in read(loader, MODEL)]), torch.cat(loader))


@pytest.mark.parametrize(
    "pair",
    [
        (X, X.clone()),
        (X.numpy(), X.numpy() + 1),
        torch.arange(20.0).reshape(5, 4).split(2, dim=1),  # inputs and targets in the columns of one table
        torch.rand(2, 5, 2).unbind(),
        torch.rand(2 * 5 * 2).view(10, 2).split(5),  # cannot be told from the one before
        (X, X),
    ],
)
def test_a_pair_that_may_be_two_batches_is_refused_with_both_remedies(pair):
    message = (
        r"a pair of tensors of one shape and type; pass \[\(x, y\)\].* inputs and labels; pass list\(…\) .* two batches"
    )
    with pytest.raises(TypeError, match=message):
        list(read(pair, MODEL))
    assert sum(batch.size for batch in read(list(pair), MODEL)) == 10
    assert [batch.size for batch in read([pair], MODEL)] == [5]


def test_two_inputs_are_read_as_inputs_and_labels_and_as_two_in_a_nest_or_a_mapping():
    lengths = torch.tensor([2, 2, 1, 1, 2])
    ((batch, _),) = read_labeled([(X, lengths)], MODEL, 3)
    assert torch.equal(batch.inputs, X)
    (both,) = read([((X, lengths), Y)], MODEL)
    assert [len(part) for part in both.inputs] == [5, 5]
    (named,) = read([{"x": X, "lengths": lengths, "labels": Y}], MODEL)
    assert set(named.inputs) == {"x", "lengths"}
