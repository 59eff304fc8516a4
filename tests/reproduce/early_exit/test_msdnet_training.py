from dataclasses import replace

import pytest
import torch

import suffice
from suffice.models.msdnet import SETTINGS
from suffice.reproduce import catalog
from suffice.reproduce.early_exit import msdnet_training
from suffice.reproduce.early_exit.msdnet_training import MSDNetExperiment
from suffice.utils.progress import quiet
from tests.reproduce.early_exit.images import small_cifar


@pytest.fixture
def small(monkeypatch):
    sets = small_cifar()
    monkeypatch.setattr(suffice.data, "load", lambda name, seed: sets)


CONFIG = MSDNetExperiment("cifar100", "small", epochs=2, bfloat16=False, compiled=False)


def test_a_configuration_has_its_command():
    assert CONFIG.command == "suffice reproduce cifar100-msdnet-small --epochs 2 --float32 --eager"
    assert MSDNetExperiment("imagenet", "4", seed=1).command == "suffice reproduce imagenet-msdnet-4 --seed 1"


@pytest.mark.parametrize(
    ("epochs", "schedule", "flag"),
    [(None, "steps", ""), (300, "steps", ""), (299, "cosine", " --epochs 299"), (400, "steps", " --epochs 400")],
)
def test_only_fewer_epochs_than_the_papers_use_a_cosine(small, epochs, schedule, flag):
    config = MSDNetExperiment("cifar100", "small", epochs)
    settings = config.settings(config.load())
    assert (settings["epochs"], settings["schedule"]) == (epochs or 300, schedule)
    assert config.command == f"suffice reproduce cifar100-msdnet-small{flag}"


def test_every_configuration_names_an_existing_network():
    for name in catalog.EXPERIMENTS:
        if "msdnet" in name:
            source, _, size = name.split("-")
            assert f"{MSDNetExperiment(source, size).paper.family}-{size}" in SETTINGS


@pytest.mark.parametrize(
    ("other", "split"), [(replace(CONFIG, seed=1), "abc"), (replace(CONFIG, compiled=True), "abc"), (CONFIG, "abd")]
)
def test_weights_of_another_training_are_refused(small, tmp_path, monkeypatch, other, split):
    monkeypatch.setattr(msdnet_training, "train", lambda *_, checkpoint, **__: checkpoint.folder.mkdir(exist_ok=True))
    sets, folder = CONFIG.load(), tmp_path / "weights"
    msdnet_training.train_network(CONFIG, sets, folder, quiet)
    msdnet_training.train_network(CONFIG, sets, folder, quiet)
    with pytest.raises(ValueError, match=r"weights to have the (settings|data)"):
        msdnet_training.train_network(other, replace(sets, split=split), folder, quiet)


def test_weights_without_recorded_settings_are_accepted(small, tmp_path, monkeypatch):
    monkeypatch.setattr(msdnet_training, "train", lambda *_, **__: None)
    folder = tmp_path / "weights"
    folder.mkdir()
    msdnet_training.train_network(CONFIG, CONFIG.load(), folder, quiet)
    with pytest.raises(ValueError, match="weights to have the settings"):
        msdnet_training.train_network(replace(CONFIG, seed=1), CONFIG.load(), folder, quiet)


def test_a_seed_and_a_split_have_their_own_weights(tmp_path):
    assert msdnet_training.weights_folder(CONFIG, tmp_path, "net") == tmp_path / "net-weights"
    other = replace(CONFIG, seed=1, validation=300)
    assert msdnet_training.weights_folder(other, tmp_path, "net") == tmp_path / "net-seed1-validation300-weights"


@pytest.mark.slow
def test_the_last_exit_learns_the_classes(small, tmp_path):
    sets = CONFIG.load()
    network = msdnet_training.train_network(replace(CONFIG, epochs=12), sets, tmp_path / "weights", quiet)
    x, y = next(iter(sets.test.batches(48)))
    with torch.no_grad():
        assert (network(x)[-1].argmax(dim=1) == y).double().mean() > 0.5
