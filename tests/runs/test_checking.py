import pytest

from suffice.deploy.parity import Parity
from suffice.runs import checking


def check(parity=None, estimates=None):
    return checking.Check(parity, estimates, {}, {}, 0)


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (check(Parity(9, (1e-5, 2e-5), 0, 0.0)), True),
        (check(Parity(9, (1e-5, 2e-3), 0, 0.0)), False),
        (check(Parity(9, (1e-5,), 1, 0.1)), False),
        (check(estimates=Parity(9, (5e-4,), 0, 0.0)), True),
        (check(estimates=Parity(9, (5e-3,), 0, 0.0)), False),
    ],
)
def test_other_answers_than_those_of_the_network_are_an_error(found, holds):
    if holds:
        checking.require_parity(found)
        return
    with pytest.raises(ValueError, match="expected a bundle that agrees with its network"):
        checking.require_parity(found)
