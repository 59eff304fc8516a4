import json

import pytest

from suffice.demo import program, subjects


@pytest.mark.slow
def test_the_same_seed_gives_the_same_results_twice_timings_aside(tmp_path):
    def quiet(what, done, total):
        del what, done, total

    runs = [program.run(subjects.digits(0, quiet), 0, tmp_path / name, quiet) for name in ("a", "b")]
    for results in runs:
        del results["timing"], results["artifact"]["folders"], results["closing"]
    first, second = (json.dumps(results, sort_keys=True) for results in runs)
    assert first == second


def test_the_summary_states_the_calibration_errors_even_if_one_increased():
    rows = zip(("vanilla", "temperature", "default"), (0.02, 0.03, 0.04), strict=True)
    results = {
        "ablation": [{"name": name, "averaged": {"ece": ece, "accuracy": 0.9}} for name, ece in rows],
        "budget": {"realised_macs": 1, "full_macs": 2, "accuracy": 0.9, "full_accuracy": 0.9},
        "timing": {"run_ms": 1.0, "network_ms": 2.0},
        "variation": {
            "rows": [{"name": name, "r2": 0.5} for name in ("estimator", "dropout, T = 10", "dropout, T = 100")]
        },
    }
    text = program._closing(results)
    assert "was 0.020 without calibration, 0.040 with it, and 0.030 with a temperature per exit alone" in text
    assert "fell" not in text


def test_rows_whose_intervals_are_below_vanillas_are_named():
    rows = [
        {"name": "vanilla", "intervals": {"ece": (0.10, 0.14)}},
        {"name": "temperature", "intervals": {"ece": (0.03, 0.05)}},
        {"name": "ensemble", "intervals": {"ece": (0.09, 0.13)}},
        {"name": "all", "intervals": {"ece": (0.04, 0.06)}},
    ]
    text = program._overlap(rows)
    assert "Clearly below vanilla: temperature, all." in text
    assert "Not clearly below it: ensemble." in text
    assert "intervals of temperature, all overlap" in text


def test_a_row_that_no_other_overlaps_is_called_the_lowest():
    rows = [
        {"name": "vanilla", "intervals": {"ece": (0.10, 0.14)}},
        {"name": "temperature", "intervals": {"ece": (0.03, 0.05)}},
    ]
    assert program._overlap(rows).endswith("temperature is clearly the lowest.")


def test_a_folder_of_something_else_is_refused_before_any_work(tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "mine").touch()
    with pytest.raises(FileExistsError, match=f"got {tmp_path}/policy, which suffice.save did not write"):
        program.run(None, 0, tmp_path, None)
