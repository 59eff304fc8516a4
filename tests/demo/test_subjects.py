import pytest
import torch

from suffice import data
from suffice.data.splits.assignment import DataSet
from suffice.data.splits.images import Images
from suffice.demo import program, subjects


def quiet(what, done, total):
    del what, done, total


def test_missing_images_are_an_error_of_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("SUFFICE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="cifar100"):
        subjects.cifar100(0, quiet)


@pytest.mark.slow
def test_the_demo_runs_on_the_pretrained_network(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (60, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Images(pixels, torch.randint(100, (60,), generator=generator))
    names = tuple(str(label) for label in range(100))
    sets = DataSet("cifar100", split, split, split, names, "abc")
    monkeypatch.setattr(data, "load", lambda name, seed: sets)
    monkeypatch.setattr(subjects, "TRUTH", 20)
    monkeypatch.setattr(program, "TRUTH_PASSES", 20)
    results = program.run(subjects.cifar100(0, quiet), 0, tmp_path, quiet)
    assert "CIFAR-100" in results["about"]
    assert {row["name"] for row in results["variation"]["rows"]} >= {"dropout, T = 100", "estimator"}
    assert not any(results["artifact"]["differences"].values())
