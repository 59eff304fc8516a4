import copy
import math
from dataclasses import replace

import pytest
import torch

from suffice.reproduce.early_exit.text import measurements, minilm
from suffice.reproduce.early_exit.text.minilm import Recipe
from suffice.training import AdamWConfig
from suffice.training.losses import Weighted
from suffice.utils.progress import quiet
from tests.reproduce.early_exit.text import builders

FAST = AdamWConfig(1e-2, warmup=0)


@pytest.fixture
def recipes(monkeypatch):
    """Replace the networks by small LSTMs, and the requests by small ones."""
    small = {
        "fine-tuned": Recipe("a", builders.lstm, 2, Weighted((0, 1)), FAST, bfloat16=False),
        "joint": Recipe("b", builders.lstm, 2, optimizer=FAST, bfloat16=False),
        "frozen": Recipe("c", builders.lstm, 0),
    }
    monkeypatch.setattr(minilm, "RECIPES", small)
    monkeypatch.setattr(minilm, "SEEDS", (0,))
    monkeypatch.setattr(minilm, "load", lambda: (builders.requests(), {minilm.SOURCE: "abc"}))
    return small


def trained(name, tmp_path):
    return minilm.train_and_cache(name, 0, builders.requests(), tmp_path, quiet)


def moved(recipe, network):
    """Return the names of the weights that differ from those before the training."""
    torch.manual_seed(0)
    model = recipe.model(builders.INTENTS)
    before = minilm.attach(model, builders.requests().example, freeze=not recipe.epochs).state_dict()
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def test_layers_and_exits_are_trained_together(recipes, tmp_path):
    network, _ = trained("joint", tmp_path)
    assert moved(recipes["joint"], network) == set(network.state_dict())


def test_frozen_layers_do_not_move_and_all_classifiers_do(recipes, tmp_path):
    network, _ = trained("frozen", tmp_path)
    assert moved(recipes["frozen"], network) == {name for name in network.state_dict() if ".classifier." in name}


def test_the_plain_network_is_the_last_exit_whatever_the_earlier_ones_are(recipes, tmp_path):
    network, subject = trained("fine-tuned", tmp_path)
    first, last = (network.exit(k).classifier for k in (0, -1))
    before = copy.deepcopy(last.state_dict())
    assert bool(first.weight.any())  # trained afterwards, on the frozen layers
    torch.nn.init.zeros_(first.weight)
    minilm.train_exits(subject.study, last=False)
    assert bool(first.weight.any())
    assert all(torch.equal(value, before[name]) for name, value in last.state_dict().items())


def test_exits_learn_the_intents(recipes, tmp_path):
    recipes["joint"] = replace(recipes["joint"], epochs=40)
    _, subject = trained("joint", tmp_path)
    accuracy = [at["accuracy"] for at in measurements.by_exit(subject)["exits"]]
    chance, count = 1 / builders.INTENTS, len(subject.requests.test)
    assert min(accuracy) > chance + 3 * math.sqrt(chance * (1 - chance) / count), f"{accuracy}"


def test_complete_results_need_no_training_and_an_interrupted_experiment_goes_on(recipes, tmp_path, monkeypatch):
    seen = {"seen": lambda subject: {"seen": len(subject.requests.test)}}
    monkeypatch.setattr(measurements, "measures", lambda whole: seen)
    results = minilm.run(tmp_path, quiet)
    assert set(results["runs"]) == {f"{name}, seed 0: seen" for name in recipes}
    assert {run["measured"]["seen"] for run in results["runs"].values()} == {45}
    assert results["settings"]["test"] == 45
    monkeypatch.setattr(minilm, "train_layers", lambda *_: pytest.fail("trained again"))
    assert minilm.run(tmp_path, quiet) == results
    monkeypatch.undo()


def test_halves_of_the_validation_part_are_disjoint_and_stratified(monkeypatch):
    from suffice.data.splits.assignment import DataSet
    from suffice.data.splits.texts import Texts

    def split(count):
        return Texts(tuple(f"{'x' * (row % 7 + 1)} {row}" for row in range(count)), torch.arange(count) // 4)

    sets = DataSet("", split(8), split(8), split(8), (), "abc")
    monkeypatch.setattr(minilm.data, "load", lambda name: sets)
    monkeypatch.setattr(
        minilm.classifiers, "token_ids", lambda texts: [[len(a), int(b)] for a, b in (t.split() for t in texts)]
    )
    requests, splits = minilm.load()
    halves = [{int(ids[1]) for ids in part.ids} for part in (requests.validation, requests.held_out)]
    assert halves == [{0, 2, 4, 6}, {1, 3, 5, 7}]
    assert requests.validation.labels.bincount().tolist() == requests.held_out.labels.bincount().tolist() == [2, 2]
    assert splits == {minilm.SOURCE: "abc", minilm.OUT_OF_SCOPE: "abc"}
