import json

import pytest

import suffice
from suffice import evaluation
from suffice.data.store import lookup
from suffice.reproduce.early_exit import measurements, msdnets, tables
from suffice.reproduce.early_exit.msdnet_training import MSDNetExperiment
from suffice.reproduce.ledger import Ledger, measured
from suffice.utils.progress import quiet
from tests.reproduce.early_exit.images import images, small_cifar

pytestmark = pytest.mark.filterwarnings("ignore:the .* ended at the edge")


@pytest.fixture
def small(monkeypatch):
    sets = small_cifar()
    monkeypatch.setattr(suffice.data, "load", lambda name, seed: sets)
    monkeypatch.setattr(msdnets, "_stored_ood_sets", lambda source: ["far"])
    monkeypatch.setattr(measurements, "VARIANTS", {"all, product of exits": {"ensemble": "product"}})


CONFIG = MSDNetExperiment("cifar100", "small", epochs=2, bfloat16=False, compiled=False)


@pytest.mark.slow
def test_one_command_trains_and_makes_every_table_once(small, tmp_path, monkeypatch):
    results = msdnets.run(CONFIG, tmp_path, quiet, also=["smoothed", "distilled"])
    others = [row for loss in measurements.ALTERNATIVE_LOSSES.values() for row in loss.choices]
    assert {*evaluation.ABLATION, *others, "scores", "ood: far"} < measured(results).keys()
    assert results["networks"].keys() == {CONFIG.name, f"{CONFIG.name}-smoothed", f"{CONFIG.name}-distilled"}
    for make in tables.SMALL_IMAGE_TABLES.values():
        assert len(make(results).splitlines()) > 2
    monkeypatch.setattr(measurements, "row", lambda study, **choices: pytest.fail("measured again"))
    assert msdnets.run(CONFIG, tmp_path, quiet)["runs"] == json.loads(json.dumps(results["runs"]))


def test_nothing_is_trained_if_the_results_are_complete(small, tmp_path, monkeypatch):
    sets = CONFIG.load()
    book = Ledger(tmp_path / f"{CONFIG.name}.json", "", CONFIG.settings(sets), {"cifar100": "abc"})
    for key in (*measurements.measures(), "ood: far", "corruptions"):
        book.run(key, dict)
    monkeypatch.setattr(msdnets, "train_network", lambda *_: pytest.fail("trained again"))
    assert msdnets.run(CONFIG, tmp_path, quiet)["runs"].keys() == book.results["runs"].keys()


def test_out_of_distribution_sets_are_measured_if_they_are_in_the_store(monkeypatch):
    monkeypatch.setattr(lookup, "names", lambda: ["cifar100"])
    assert list(msdnets._small_image_measures("cifar100", images(4, 0))) == ["corruptions"]
    monkeypatch.setattr(lookup, "names", lambda: ["cifar100", "tiny-imagenet"])
    assert list(msdnets._small_image_measures("cifar100", images(4, 0))) == ["ood: tiny-imagenet", "corruptions"]


def test_an_unknown_loss_is_refused_before_any_training(small, tmp_path):
    with pytest.raises(ValueError, match=r"among smoothed, distilled, got sharpened"):
        msdnets.run(CONFIG, tmp_path, quiet, also=["sharpened"])
    assert not list(tmp_path.iterdir())
