import pytest

from suffice.runs import datasets
from tests.runs import modules


def test_a_function_gives_loaders_and_names():
    loaders = datasets.load("tests.runs.modules:sets")
    assert [len(y) for _, y in loaders.validation] == [40, 20]
    assert loaders.test[0][0].equal(modules.sets().test[0][0])
    assert loaders.class_names == tuple("abcd")


def test_a_data_set_gives_batches_of_its_splits():
    loaders = datasets.load("digits")
    assert sum(len(y) for _, y in loaders.test) == 600
    assert sum(len(y) for _, y in loaders.validation) == 400
    assert len(loaders.class_names) == 10


def test_data_without_a_part_are_refused():
    with pytest.raises(TypeError, match=r"expected test batches of inputs and labels in 'tests.runs"):
        datasets.load("tests.runs.modules:unlabeled")


def test_an_unknown_data_set_is_refused():
    with pytest.raises(FileNotFoundError, match="no-such-set"):
        datasets.load("no-such-set")
