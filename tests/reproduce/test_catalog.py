import re

import pytest

from suffice.reproduce import catalog
from suffice.reproduce.ledger import Ledger


def test_an_unknown_experiment_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match="expected one of movielens, criteo"):
        catalog.find("movielens-2m")


@pytest.mark.parametrize(
    ("name", "settings", "state"),
    [
        ("cifar100-msdnet-small", {"epochs": 20}, ("reduced", "20 of 300 epochs, one seed")),
        ("cifar100-msdnet-small", {"epochs": 300}, ("reduced", "one seed")),
        ("cifar100-msdnet-small", {"epochs": 400}, ("reduced", "400 instead of 300 epochs, one seed")),
        (
            "imagenet-msdnet-4",
            {"epochs": 1, "images": 1000, "classes": 200},
            ("smoke", "1,000 training images of 200 classes, 1 of 90 epochs, one seed"),
        ),
        ("movielens", {}, ("full", "")),
    ],
)
def test_the_state_of_an_experiment_has_its_reason(name, settings, state, tmp_path):
    path = tmp_path / f"{name}.json"
    experiment = catalog.find(name)
    assert experiment.state(path) == ("not run", "")
    book = Ledger(path, "", settings, {})
    for done, key in enumerate(experiment.keys):
        book.run(key, dict)
        if done == 0:
            assert experiment.state(path) == ("partial", f"1 of {len(experiment.keys)} runs")
    assert experiment.state(path) == state


@pytest.mark.parametrize("name", catalog.EXPERIMENTS)
def test_a_table_of_results_that_lack_runs_is_refused(name, tmp_path):
    book = Ledger(tmp_path / f"{name}.json", f"suffice reproduce {name}", {"epochs": 1}, {})
    first, second, *_ = catalog.find(name).keys
    book.run(first, dict)
    for table in catalog.find(name).tables:
        with pytest.raises(
            ValueError, match=re.escape(f"the first of them {second!r}; resume with `suffice reproduce {name}")
        ):
            catalog.render_table(tmp_path, name, table)


def test_the_commands_of_all_runs_are_below_a_table(tmp_path):
    row = {"rows": [{"name": "estimator", "r2": 0.5}]}
    for number, key in enumerate(catalog.find("movielens").keys):
        Ledger(tmp_path / "movielens.json", f"command {min(number, 1)}", {}, {}).run(key, lambda: row)
    assert "\n*`command 0`; `command 1`; " in catalog.render_table(tmp_path, "movielens", "estimates")


def test_an_unknown_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected one of the tables estimates"):
        catalog.render_table(tmp_path, "movielens", "estimate")
