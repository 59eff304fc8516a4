import doctest

import pytest

from suffice_runtime.monitor import loss, mean, ranks, shares, state, steps


@pytest.mark.parametrize("module", [loss, mean, ranks, shares, state, steps], ids=lambda module: module.__name__)
def test_examples_print_what_they_show(module):
    done = doctest.testmod(module)
    assert done.attempted
    assert not done.failed
