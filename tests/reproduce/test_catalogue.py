import pytest

from suffice.reproduce import catalogue
from suffice.reproduce.ledger import Ledger


def test_an_unknown_experiment_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="expected one of movielens, criteo"):
        catalogue.find("movielens-2m")


@pytest.mark.parametrize(
    ("name", "settings", "state"),
    [
        ("cifar100-msdnet-small", {"epochs": 20}, ("reduced", "20 of 300 epochs, one seed")),
        ("cifar100-msdnet-small", {"epochs": 300}, ("reduced", "one seed")),
        (
            "imagenet-msdnet-4",
            {"epochs": 1, "images": 1000, "classes": 200},
            ("smoke", "1,000 training images of 200 classes, 1 of 90 epochs, one seed"),
        ),
        ("movielens", {}, ("full", "")),
    ],
)
def test_the_state_of_an_experiment_says_what_reduced_it(name, settings, state, tmp_path):
    path = tmp_path / f"{name}.json"
    experiment = catalogue.find(name)
    assert experiment.state(path) == ("not run", "")
    Ledger(path, "", settings, {}).run("seed 0", dict)
    assert experiment.state(path) == state


def test_an_unknown_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected one of the tables estimates"):
        catalogue.made(tmp_path, "movielens", "estimate")
