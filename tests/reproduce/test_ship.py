import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import suffice
from suffice import evaluation
from suffice.data.images import Images
from suffice.data.splits import DataSet
from suffice.reproduce.early_exit import msdnets
from suffice.reproduce.early_exit.msdnets import Recipe
from suffice.storage.fingerprint import fingerprint
from suffice.training.loop import Progress

_SPEC = importlib.util.spec_from_file_location("ship", Path(__file__).parents[2] / "experiments" / "ship.py")
ship = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(ship)

RECIPE = Recipe("cifar100", "small", epochs=2, bfloat16=False, compiled=False)
IMAGES = Images(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
SETS = DataSet("cifar100", IMAGES, IMAGES, IMAGES, ("a", "b"), "abc")


def network():
    torch.manual_seed(RECIPE.seed)
    return suffice.models.msdnet("cifar-small", num_classes=2)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Of a training that is over: nothing is learned any more."""
    monkeypatch.setattr(ship, "RESULTS", tmp_path)
    monkeypatch.setattr(msdnets, "learn", lambda *_, **__: None)
    (tmp_path / f"{RECIPE.name}-weights").mkdir()
    return {"command": "train", "data": {"cifar100": "abc"}, "networks": {RECIPE.name: fingerprint(network())}}


def test_the_weights_of_the_results_are_shipped(results):
    assert fingerprint(ship._trained(RECIPE, SETS, results)) == fingerprint(network())
    with pytest.raises(ValueError, match="whose weights have the hash"):
        ship._trained(RECIPE, SETS, {**results, "networks": {RECIPE.name: "0" * 64}})


def test_nothing_is_trained_to_be_shipped(results, tmp_path, monkeypatch):
    monkeypatch.setattr(msdnets, "learn", lambda *_, on_step, **__: on_step(Progress(1, 2, 1, 0.5, None)))
    with pytest.raises(ValueError, match="a training that is over"):
        ship._trained(RECIPE, SETS, results)
    (tmp_path / f"{RECIPE.name}-weights").rmdir()
    with pytest.raises(FileNotFoundError, match="make them by `train`"):
        ship._trained(RECIPE, SETS, results)


def test_another_split_than_that_of_the_results_is_refused(results):
    with pytest.raises(ValueError, match="expected the split abc"):
        ship._trained(RECIPE, replace(SETS, split="abd"), results)


@pytest.mark.parametrize("better", ["average", "product"])
def test_the_ensemble_is_called_by_its_name(monkeypatch, better):
    monkeypatch.setattr(suffice, "calibrate", lambda *_, ensemble, **__: ensemble)
    monkeypatch.setattr(evaluation, "predict", lambda made, _: made)
    monkeypatch.setattr(evaluation, "per_exit", lambda made: [{"nll": float(made != better)}])
    assert ship._calibrated(None, None, None, 0) == (better, better)
