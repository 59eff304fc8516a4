import pytest

from suffice.reproduce import catalogue
from suffice.reproduce.ledger import Ledger


def test_an_unknown_experiment_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="expected one of movielens, criteo"):
        catalogue.find("movielens-2m")


def test_the_state_of_an_experiment_says_what_reduced_it(tmp_path):
    path = tmp_path / "cifar100-msdnet-small.json"
    experiment = catalogue.find("cifar100-msdnet-small")
    assert experiment.state(path) == ("not run", "")
    Ledger(path, "", {"epochs": 20}, {}).run("seed 0", dict)
    assert experiment.state(path) == ("reduced", "20 of 300 epochs, one seed")


def test_an_unknown_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected one of the tables estimates"):
        catalogue.made(tmp_path, "movielens", "estimate")
