import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import suffice
from suffice import evaluation
from suffice.data.splits.assignment import DataSet
from suffice.data.splits.images import Images
from suffice.reproduce.early_exit import msdnet_training
from suffice.reproduce.early_exit.msdnet_training import MSDNetExperiment
from suffice.storage.fingerprint import fingerprint
from suffice.training import TrainingProgress

_SPEC = importlib.util.spec_from_file_location("ship", Path(__file__).parents[2] / "experiments" / "ship.py")
ship = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(ship)

CONFIG = MSDNetExperiment("cifar100", "small", epochs=2, bfloat16=False, compiled=False)
IMAGES = Images(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
SETS = DataSet("cifar100", IMAGES, IMAGES, IMAGES, ("a", "b"), "abc")


def network():
    torch.manual_seed(CONFIG.seed)
    return suffice.models.msdnet("cifar-small", num_classes=2)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Results of a finished training; training again does nothing."""
    monkeypatch.setattr(ship, "RESULTS", tmp_path)
    monkeypatch.setattr(msdnet_training, "train", lambda *_, **__: None)
    (tmp_path / f"{CONFIG.name}-weights").mkdir()
    return {"command": "train", "data": {"cifar100": "abc"}, "networks": {CONFIG.name: fingerprint(network())}}


def test_the_weights_of_the_results_are_shipped(results):
    assert fingerprint(ship._load_network(CONFIG, SETS, results)) == fingerprint(network())
    with pytest.raises(ValueError, match="whose weights have the hash"):
        ship._load_network(CONFIG, SETS, {**results, "networks": {CONFIG.name: "0" * 64}})


def test_an_unfinished_or_missing_training_is_refused(results, tmp_path, monkeypatch):
    step = TrainingProgress(1, 2, 1, 0.5, None)
    monkeypatch.setattr(msdnet_training, "train", lambda *_, on_step, **__: on_step(step))
    with pytest.raises(ValueError, match="expected a finished training"):
        ship._load_network(CONFIG, SETS, results)
    (tmp_path / f"{CONFIG.name}-weights").rmdir()
    with pytest.raises(FileNotFoundError, match="create them with `train`"):
        ship._load_network(CONFIG, SETS, results)


def test_a_split_other_than_that_of_the_results_is_refused(results):
    with pytest.raises(ValueError, match="expected the split abc"):
        ship._load_network(CONFIG, replace(SETS, split="abd"), results)


@pytest.mark.parametrize("better", ["average", "product"])
def test_the_better_ensemble_is_chosen(monkeypatch, better):
    monkeypatch.setattr(suffice, "calibrate", lambda *_, ensemble, **__: ensemble)
    monkeypatch.setattr(evaluation, "predict", lambda made, _: made)
    monkeypatch.setattr(evaluation, "per_exit", lambda made: [{"nll": float(made != better)}])
    assert ship._calibrate(None, None, None, 0) == (better, better)
