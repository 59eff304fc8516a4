import inspect

import numpy as np
import pytest
import torch
from torch import Tensor

from suffice import metrics
from suffice.utils.arrays import takes_arrays

PROBS, LABELS = [[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]], [0, 1, 1, 1]


@takes_arrays
def both(first: Tensor, second: list[Tensor], bins: int = 3) -> tuple[Tensor, list[Tensor], int]:
    return first, second, bins


@pytest.mark.parametrize("form", [np.array, list, tuple, torch.tensor])
def test_arrays_and_lists_have_the_measures_of_their_tensors(form):
    probs, labels, hits = form(PROBS), form(LABELS), form([True, True, False, True])
    tensors = torch.tensor(PROBS, dtype=torch.float64), torch.tensor(LABELS)
    for measure in (metrics.accuracy, metrics.brier, metrics.ece, metrics.smooth_ece):
        torch.testing.assert_close(measure(probs, labels), measure(*tensors).double(), check_dtype=False)
    assert float(metrics.auroc(form([3.0, 1.0, 2.0, 4.0]), positive=hits)) == 2 / 3
    assert metrics.quantile(form([3.0, 1.0, 2.0]), [0.0, 0.75]).tolist() == [1.0, 2.5]
    assert float(metrics.eefp([form([1.0, 2.0, 3.0, 4.0])] * 2, [hits, form([True] * 4)])) == pytest.approx(1 / 3)


def test_tensors_and_other_arguments_stay_as_they_are():
    first, second = torch.ones(2), [torch.ones(1)]
    assert both(first, second, bins=5) == (first, second, 5)
    converted = both(np.ones(2, dtype=">f4"), (np.arange(2), [True]), 4)
    assert converted[0].dtype == torch.float32
    assert [each.dtype for each in converted[1]] == [torch.int64, torch.bool]
    assert converted[2] == 4
    assert list(inspect.signature(both).parameters) == ["first", "second", "bins"]


@pytest.mark.parametrize("value", [["a", "b"], [[1.0], [1.0, 2.0]], None, {"x": 1}, "text"])
def test_what_holds_no_numbers_is_refused_by_the_name_of_its_parameter(value):
    with pytest.raises(TypeError, match="expected labels as a tensor, an array or a list of numbers, got "):
        metrics.accuracy(torch.tensor(PROBS), value)


def test_every_public_measure_takes_arrays():
    measures = [value for name, value in vars(metrics).items() if name[0] != "_" and inspect.isfunction(value)]
    taking = [each for each in measures if each.__module__.startswith("suffice.") and hasattr(each, "__wrapped__")]
    with_tensors = [
        each for each in measures if Tensor in [p.annotation for p in inspect.signature(each).parameters.values()]
    ]
    assert set(with_tensors) <= set(taking)
    assert len(with_tensors) > 20
