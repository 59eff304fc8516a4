import warnings

import pytest

from suffice.calibration.tuning.ranges import NEGLIGIBLE, TunedValue, warn_at_edges

LIMITS = 1e-3, 1e5


@pytest.mark.parametrize(
    ("name", "meanings"),
    [
        (
            "prior precision",
            ("; the posterior has its largest allowed variance there", "; the posterior adds nothing there"),
        ),
        ("weight", ("; the exit adds nothing to those before it", "; the exits before it add nothing")),
        (
            "temperature",
            (
                "; the predictions are underconfident by more than this factor",
                "; the predictions are overconfident by more than this factor",
            ),
        ),
    ],
)
@pytest.mark.parametrize("end", [0, 1])
def test_an_edge_is_warned_of_once_with_its_meaning_and_exits(name, meanings, end):
    ended = [TunedValue(exit_, name, LIMITS[end], LIMITS) for exit_ in (0, 2)]
    with pytest.warns(UserWarning, match="exits 0, 2") as seen:
        warn_at_edges([*ended, TunedValue(1, name, 1.0, LIMITS)])
    expected = f"the {name} of exits 0, 2 ended at the edge of its range, {LIMITS[end]:g}{meanings[end]}"
    assert [str(one.message) for one in seen] == [expected]


def test_an_edge_where_a_wider_range_gains_nothing_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_at_edges([TunedValue(0, "prior precision", LIMITS[0], LIMITS, slope=NEGLIGIBLE / 2)])
    with pytest.warns(UserWarning, match="exit 0 ended at the edge"):
        warn_at_edges([TunedValue(0, "prior precision", LIMITS[0], LIMITS, slope=NEGLIGIBLE * 2)])


def test_a_value_beside_an_edge_is_warned_of_and_one_within_is_not():
    with pytest.warns(UserWarning, match="ended at the edge of its range, 0.001"):
        warn_at_edges([TunedValue(0, "temperature", 1.0005e-3, LIMITS)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_at_edges([TunedValue(0, "temperature", 1.1e-3, LIMITS)])
