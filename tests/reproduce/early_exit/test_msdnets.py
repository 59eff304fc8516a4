import json
from dataclasses import replace

import pytest
import torch

import suffice
from suffice import evaluation
from suffice.data.images import Images
from suffice.data.splits import DataSet
from suffice.data.store import lookup
from suffice.models.msdnet import SETTINGS
from suffice.reproduce import catalog
from suffice.reproduce.early_exit import measurements, msdnets, tables
from suffice.reproduce.early_exit.msdnets import Recipe
from suffice.reproduce.ledger import Ledger, measured
from suffice.utils.progress import quiet

pytestmark = pytest.mark.filterwarnings("ignore:the .* ended at the edge")


def images(count, seed):
    """Four classes by the quarter of the image that is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    pixels = torch.randint(120, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[:, 16 * (label // 2) :, 16 * (label % 2) :][:, :16, :16] += 100
    return Images(pixels, labels, mean=torch.full((3,), 0.3), std=torch.full((3,), 0.2))


@pytest.fixture
def small(monkeypatch):
    sets = DataSet("cifar100", images(96, 0), images(48, 1), images(48, 2), ("a", "b", "c", "d"), "abc")
    monkeypatch.setattr(suffice.data, "load", lambda name, seed: sets)
    monkeypatch.setattr(msdnets, "_strangers", lambda source: ["far"])
    monkeypatch.setattr(measurements, "VARIANTS", {"all, product of exits": {"ensemble": "product"}})


RECIPE = Recipe("cifar100", "small", epochs=2, bfloat16=False, compiled=False)


def test_the_command_of_a_recipe_finds_it_again():
    assert RECIPE.command == "suffice reproduce cifar100-msdnet-small --epochs 2 --float32 --eager"
    assert Recipe("imagenet", "4", seed=1).command == "suffice reproduce imagenet-msdnet-4 --seed 1"


@pytest.mark.parametrize(
    ("epochs", "schedule", "flag"),
    [(None, "steps", ""), (300, "steps", ""), (299, "cosine", " --epochs 299"), (400, "steps", " --epochs 400")],
)
def test_only_fewer_epochs_than_the_papers_go_down_a_cosine(small, epochs, schedule, flag):
    recipe = Recipe("cifar100", "small", epochs)
    settings = recipe.settings(recipe.load())
    assert (settings["epochs"], settings["schedule"]) == (epochs or 300, schedule)
    assert recipe.command == f"suffice reproduce cifar100-msdnet-small{flag}"


def test_every_recipe_names_a_network_that_there_is():
    for name in catalog.EXPERIMENTS:
        if "msdnet" in name:
            source, _, size = name.split("-")
            assert f"{Recipe(source, size).setup.family}-{size}" in SETTINGS


@pytest.mark.slow
def test_one_command_trains_and_makes_every_table_once(small, tmp_path, monkeypatch):
    results = msdnets.run(RECIPE, tmp_path, quiet, also=["smoothed", "distilled"])
    others = [row for other in measurements.OTHERS.values() for row in other.choices]
    assert {*evaluation.ABLATION, *others, "scores", "strangers: far"} < measured(results).keys()
    assert results["networks"].keys() == {RECIPE.name, f"{RECIPE.name}-smoothed", f"{RECIPE.name}-distilled"}
    for make in tables.OF_SMALL_IMAGES.values():
        assert len(make(results).splitlines()) > 2
    monkeypatch.setattr(measurements, "row", lambda case, **choices: pytest.fail("measured again"))
    assert msdnets.run(RECIPE, tmp_path, quiet)["runs"] == json.loads(json.dumps(results["runs"]))


def test_where_the_results_are_all_there_nothing_is_trained(small, tmp_path, monkeypatch):
    sets = RECIPE.load()
    book = Ledger(tmp_path / f"{RECIPE.name}.json", "", RECIPE.settings(sets), {"cifar100": "abc"})
    for key in (*measurements.measures(), "strangers: far", "corruptions"):
        book.run(key, dict)
    monkeypatch.setattr(msdnets, "trained", lambda *_: pytest.fail("trained again"))
    assert msdnets.run(RECIPE, tmp_path, quiet)["runs"].keys() == book.results["runs"].keys()


def test_strangers_are_runs_of_their_own_once_they_are_in_the_store(monkeypatch):
    monkeypatch.setattr(lookup, "names", lambda: ["cifar100"])
    assert list(msdnets._of_small_images("cifar100", images(4, 0))) == ["corruptions"]
    monkeypatch.setattr(lookup, "names", lambda: ["cifar100", "tiny-imagenet"])
    assert list(msdnets._of_small_images("cifar100", images(4, 0))) == ["strangers: tiny-imagenet", "corruptions"]


def test_a_loss_that_is_not_known_is_refused_before_any_training(small, tmp_path):
    with pytest.raises(ValueError, match=r"among smoothed, distilled, got sharpened"):
        msdnets.run(RECIPE, tmp_path, quiet, also=["sharpened"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("other", "split"), [(replace(RECIPE, seed=1), "abc"), (replace(RECIPE, compiled=True), "abc"), (RECIPE, "abd")]
)
def test_weights_of_another_training_are_refused(small, tmp_path, monkeypatch, other, split):
    monkeypatch.setattr(msdnets, "learn", lambda *_, resume, **__: resume.mkdir(exist_ok=True))
    sets, folder = RECIPE.load(), tmp_path / "weights"
    msdnets.trained(RECIPE, sets, folder, quiet)
    msdnets.trained(RECIPE, sets, folder, quiet)
    with pytest.raises(ValueError, match=r"weights to be of (settings|data)"):
        msdnets.trained(other, replace(sets, split=split), folder, quiet)


def test_weights_of_before_this_was_written_beside_them_are_taken(small, tmp_path, monkeypatch):
    monkeypatch.setattr(msdnets, "learn", lambda *_, **__: None)
    folder = tmp_path / "weights"
    folder.mkdir()
    msdnets.trained(RECIPE, RECIPE.load(), folder, quiet)
    with pytest.raises(ValueError, match="weights to be of settings"):
        msdnets.trained(replace(RECIPE, seed=1), RECIPE.load(), folder, quiet)


def test_a_seed_and_a_split_of_its_own_have_weights_of_their_own(tmp_path):
    assert msdnets.weights(RECIPE, tmp_path, "net") == tmp_path / "net-weights"
    own = replace(RECIPE, seed=1, validation=300)
    assert msdnets.weights(own, tmp_path, "net") == tmp_path / "net-seed1-validation300-weights"


@pytest.mark.slow
def test_the_last_exit_learns_what_the_images_show(small, tmp_path):
    sets = RECIPE.load()
    network = msdnets.trained(replace(RECIPE, epochs=12), sets, tmp_path / "weights", quiet)
    x, y = next(iter(sets.test.batches(48)))
    with torch.no_grad():
        assert (network(x)[-1].argmax(dim=1) == y).double().mean() > 0.5
