import json

import pytest

import suffice
from suffice import cost, evaluation
from suffice.evaluation import cached
from suffice.evaluation.ablation import AblationStudy
from suffice.reproduce import catalog
from suffice.reproduce.early_exit import (
    overconfidence,
    overconfidence_tables,
    overconfident_networks,
)
from suffice.reproduce.early_exit.overconfident_networks import OverconfidentNetwork
from suffice.utils.progress import quiet
from tests.builders import batched, inputs, network, sampled_labels
from tests.reproduce.early_exit.images import small_cifar

ENDS = {"accuracy": (0.1, 0.3), "nll": (-0.2, -0.1), "ece": (-0.01, 0.01)}


def results_of(measured):
    """Make results in which each network has its calibration errors by seed, and the same values otherwise."""
    runs = {}
    for title, errors in measured.items():
        for seed, error in enumerate(errors):
            name = f"{title}, seed {seed}"
            averages = dict.fromkeys(evaluation.MEASURES, 0.5) | {"eefp": 0.5, "ece": error}
            runs |= {overconfidence.key(name, row): {"measured": {"averaged": averages}} for row in overconfidence.ROWS}
            facts = {"train": 100 * (seed + 1), "per feature": 10.0, "training error": [0.5, 0.0]}
            runs[overconfidence.key(name, overconfidence.FACTS)] = {"measured": facts}
            differences = {
                part: {
                    name: {"mean": (low + high) / 2 + seed, "interval": [low + seed, high + seed]}
                    for name, (low, high) in ENDS.items()
                }
                for part in overconfidence.PAIRS
            }
            runs[overconfidence.key(name, overconfidence.ADDED)] = {"measured": differences}
    return {"runs": runs}


def titles(results):
    return [network.title for network in overconfidence.measured_networks(results)]


def test_networks_are_shown_by_increasing_overconfidence():
    results = results_of({"10,000 images": [0.4, 0.5], "pretrained": [0.1], "heads, 500 images": [0.6]})
    assert titles(results) == ["pretrained", "10,000 images", "heads, 500 images"]
    assert overconfidence_tables.rows(results).startswith(
        "| top-1, % / NLL / ECE | pretrained | 10,000 images | heads, 500 images |"
    )


def test_a_network_without_all_its_runs_is_not_shown():
    results = results_of({"10,000 images": [0.4, 0.5], "pretrained": [0.1]})
    del results["runs"]["10,000 images, seed 1: default"]
    assert [network.seeds for network in overconfidence.measured_networks(results)] == [(0,), (0,)]
    assert "10,000 images, seed 1" in overconfidence.unmeasured(results)
    assert "10,000 images, seed 0" not in overconfidence.unmeasured(results)
    state, reason = catalog.find("overconfidence").assess(results)
    assert state == "reduced"
    assert "not run: heads, 2,500 images, seed 0;" in reason


def test_the_interval_of_a_difference_spans_those_of_all_seeds():
    results = results_of({"10,000 images": [0.4, 0.5]})
    (network,) = overconfidence.measured_networks(results)
    assert overconfidence_tables.difference(results, network, "Laplace", "nll") == pytest.approx((0.35, -0.2, 0.9))
    assert "| Laplace | +0.3500 [-0.2000, +0.9000] |" in overconfidence_tables.added_nll(results)
    assert "| Laplace | +70.00 [+10.00, +130.00] |" in overconfidence_tables.added_accuracy(results)


def study(seed):
    """Make an untrained network of three exits over features of random inputs."""
    net = network().eval()
    parts = []
    for part, count in enumerate((200, 200, 300)):
        x = inputs(count, seed=10 * seed + part)
        parts.append(cached.compute(net, batched(x, sampled_labels(2 * x[:, :4], seed=part), 100)))
    return AblationStudy(cached.network_on_features(net), cost.count(net, inputs(1)), *parts, seed)


@pytest.fixture
def held_out(monkeypatch):
    """Replace the pretrained network by a small one, and its validation and test parts by random features."""
    small = study(0)
    monkeypatch.setattr(overconfident_networks, "pretrained_network", lambda: (small.network, small.costs))
    monkeypatch.setattr(overconfident_networks, "pretrained_features", lambda part: getattr(small, part))
    monkeypatch.setattr(overconfident_networks, "HELD_OUT", 150)
    return small


def test_fitted_heads_do_not_change_the_pretrained_network_and_are_calibrated_on_other_images(held_out, tmp_path):
    before = {name: value.clone() for name, value in held_out.network.state_dict().items()}
    made = overconfident_networks.with_fitted_heads(3, tmp_path, quiet, images=20)
    assert all(value.equal(before[name]) for name, value in held_out.network.state_dict().items())
    assert not made.network.exit(0).classifier.weight.equal(held_out.network.exit(0).classifier.weight)
    assert (len(made.train.labels), len(made.validation.labels)) == (20, 150)
    calibrating = {tuple(row.tolist()) for row in made.validation.phi[0]}
    assert not any(tuple(row.tolist()) in calibrating for row in made.train.phi[0])
    assert max(overconfident_networks.training_error(made)) < 0.5


def test_a_training_from_scratch_gets_few_images_without_augmentation(tmp_path, monkeypatch):
    sets = small_cifar()
    monkeypatch.setattr(suffice.data, "load", lambda name, seed: sets)
    seen = {}

    def train_network(config, subset, folder, progress, loss):
        seen[len(subset.train)] = (config, subset, folder, loss)
        return suffice.models.msdnet("cifar-small", num_classes=4).eval()

    monkeypatch.setattr(overconfident_networks, "train_network", train_network)
    for images in (10, 20):
        made = overconfident_networks.trained_from_scratch(3, tmp_path, quiet, images=images)
        assert (len(made.train.labels), len(made.validation.labels), len(made.test.labels)) == (images, 48, 48)
    (config, subset, folder, _), (_, larger, other, _) = seen.values()
    assert (config.trained_epochs, config.seed) == (overconfident_networks.EPOCHS, 3)
    assert subset.train.augment is None
    assert len({sets.split, subset.split, larger.split}) == 3, "a checkpoint of other images is refused"
    assert folder != other


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the .* ended at the edge")
def test_one_command_measures_every_network_once(tmp_path, monkeypatch):
    made = []

    def make(seed, out, progress):
        made.append(seed)
        return study(seed)

    networks = (OverconfidentNetwork("pretrained", (0,), make), OverconfidentNetwork("10,000 images", (0, 1), make))
    monkeypatch.setattr(overconfidence, "NETWORKS", networks)
    monkeypatch.setattr(overconfident_networks, "load", lambda seed: type("Sets", (), {"split": f"split {seed}"}))
    results = overconfidence.run(tmp_path, quiet)
    assert made == [0, 0, 1]
    assert overconfidence.unmeasured(results) == []
    for make_table in overconfidence_tables.TABLES.values():
        assert len(make_table(results).splitlines()) > 2
    assert json.dumps(overconfidence.run(tmp_path, quiet)) == json.dumps(results)
    assert made == [0, 0, 1], "nothing is made again"
