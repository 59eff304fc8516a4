import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from suffice import cost
from suffice.calibration.serving import costs
from suffice.calibration.serving.costs import CostsByShape
from suffice.network import Exit, ExitNetwork
from tests import builders
from tests.budget import ragged

UNCERTAINTY = (5, 6, 7)


@pytest.fixture
def by_shape():
    net = ragged.network("text")
    return CostsByShape(net, cost.count(net, ragged.batch("text", 2, (3, 1))).with_uncertainty(UNCERTAINTY))


@pytest.fixture
def passes(monkeypatch):
    """Return a list to which every count appends the shape of its batch."""
    shapes, count = [], cost.count

    def counting(network, x):
        shapes.append(tuple(x.shape))
        return count(network, x)

    monkeypatch.setattr(cost, "count", counting)
    return shapes


def test_each_shape_is_counted_once_whatever_the_batch_size(by_shape, passes):
    for size, length in ((4, 2), (1, 2), (4, 9), (7, 9), (3, 2)):
        x = ragged.batch("text", size, (length, 1))
        expected = cost.count(by_shape._network, x).with_uncertainty(UNCERTAINTY)
        passes.clear()
        assert by_shape.of(x) == expected
        assert by_shape.of(x) == expected
        assert passes == ([(size, length), (1, length)] if size == 4 else [])


def test_a_batch_without_examples_has_the_costs_of_the_calibration(by_shape, passes):
    assert by_shape.of(ragged.batch("text", 0, (9, 1))) == by_shape._costs
    assert passes == []


def test_given_costs_are_never_counted(passes):
    net, fixed = ragged.network("text"), cost.Costs((1, 1, 1), (1, 1, 1), UNCERTAINTY, fixed=True)
    assert CostsByShape(net, fixed).of(ragged.batch("text", 4, (9, 1))) is fixed
    assert passes == []


def test_the_number_of_shapes_that_are_kept_is_limited(by_shape, monkeypatch):
    monkeypatch.setattr(costs, "MOST_SHAPES", 3)
    for length in (1, 2, 3, 4, 5, 1):
        x = ragged.batch("text", 1, (length, 1))
        assert by_shape.of(x) == cost.count(by_shape._network, x).with_uncertainty(UNCERTAINTY)
        assert len(by_shape._counted) <= 3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_counts_for_itself(by_shape, copied):
    x = ragged.batch("text", 4, (9, 1))
    expected, again = by_shape.of(x), copied(by_shape)
    assert again._counted == {}
    assert again.of(x) == expected


def test_threads_get_the_costs_of_their_own_inputs(by_shape, monkeypatch):
    monkeypatch.setattr(costs, "MOST_SHAPES", 2)
    batches = [ragged.batch("text", 2, (1 + i % 5, 1)) for i in range(60)]
    expected = [cost.count(by_shape._network, x).with_uncertainty(UNCERTAINTY) for x in batches]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(by_shape.of, batches)) == expected


def test_an_input_that_cannot_be_counted_is_an_error_with_the_cause_and_the_remedy():
    net, x = builders.network(), builders.inputs(4)
    by_shape = CostsByShape(net, cost.count(net, x))

    def several(module, args):
        if len(args[0]) == 1:
            raise ArithmeticError("no single example")

    net.stages[1].register_forward_pre_hook(several)
    message = r"count the multiply-adds .* got ArithmeticError: no single example; pass costs=… to suffice.calibrate"
    with pytest.raises(RuntimeError, match=message):
        by_shape.of(x)


class Steps(nn.Module):
    """As many products with a matrix as the first number of the example says."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return torch.stack([self._steps(row) for row in x])

    def _steps(self, row):
        for _ in range(int(row[0])):
            row = self.layer(row)
        return row


@pytest.mark.parametrize(("last", "warned"), [(5.0, True), (2.0, False)])
def test_work_that_depends_on_the_values_of_the_inputs_is_a_warning(last, warned):
    net, x = ExitNetwork([Steps()], [Exit(nn.Identity(), nn.Linear(3, 2))]), torch.ones(4, 3)
    x[0, 0], x[-1, 0] = 2.0, last
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert CostsByShape(net, cost.count(net, x)).of(x).network == (2 * 9 + 6,)
    assert [("got 24 and 51" in str(item.message)) for item in caught] == [True] * warned
