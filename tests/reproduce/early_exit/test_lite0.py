import copy

import pytest
import torch
from torch import nn

from suffice import cost
from suffice.data.splits.assignment import DataSet
from suffice.data.splits.images import Images
from suffice.evaluation import cached
from suffice.reproduce.early_exit import lite0, measurements
from suffice.reproduce.early_exit.measurements import AblationStudy
from suffice.utils.progress import quiet


class Blocks(nn.Module):
    """Small network whose blocks have the names of EfficientNet-Lite0's."""

    def __init__(self):
        super().__init__()
        self._blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1), nn.BatchNorm2d(16)) for i in range(16)
        )
        self._fc = nn.Linear(16, 10)

    def forward(self, x):
        for block in self._blocks:
            x = block(x).relu()
        return self._fc(x.mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return lite0.attach(Blocks().eval(), torch.randn(2, 3, 16, 16))


def test_four_exits_are_attached_and_all_classifiers_are_new(network):
    assert len(network.exits) == 5
    for exit_ in network.exits:
        assert exit_.classifier.out_features == lite0.CLASSES
        assert not exit_.classifier.weight.any()


def features(network, seed):
    """Make features that depend on the class, as wide as those of the network."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(lite0.CLASSES, (400,), generator=generator)
    widths = [exit_.classifier.in_features for exit_ in network.exits]
    centres = [torch.randn(lite0.CLASSES, width, generator=torch.Generator().manual_seed(9)) for width in widths]
    phi = [own[labels] + 0.1 * torch.randn(400, own.shape[1], generator=generator) for own in centres]
    return cached.Features(phi, labels)


def test_classifiers_learn_from_features(network):
    train, test = features(network, 0), features(network, 1)
    classifiers, costs = cached.network_on_features(network), cost.count(network, torch.randn(1, 3, 16, 16))
    study = AblationStudy(classifiers, costs, train, test, test, 0)
    lite0.train_classifiers(study)
    with torch.no_grad():
        right = (network.exit(0).classifier(test.phi[0]).argmax(dim=1) == test.labels).double().mean()
    assert right > 0.1, f"{right:.3f}, by chance {1 / lite0.CLASSES}"


def images(count):
    pixels = torch.randint(256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Images(pixels, torch.arange(count))


@pytest.fixture
def tiny(monkeypatch):
    """Replace the network and the data by small ones, and return both."""
    model = Blocks().eval()
    monkeypatch.setattr(lite0, "backbone", lambda: model)
    monkeypatch.setattr(lite0, "SIZE", 16)
    sets = DataSet("tiny-imagenet", images(6), images(4), images(4), (), "abc")
    monkeypatch.setattr(lite0.data, "load", lambda name, **_: sets)
    return model, sets


def test_trained_layers_are_frozen_and_all_classifiers_learn(tiny):
    model, sets = tiny
    before = lite0.attach(copy.deepcopy(model), torch.zeros(2, 3, lite0.SIZE, lite0.SIZE)).state_dict()
    network, study = lite0.train_exits(sets, quiet)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".classifier." in name}
    again = cached.compute(network, lite0.ResizedImages(sets.test))
    assert all(torch.equal(a, b) for a, b in zip(again.phi, study.test.phi, strict=True))


def test_complete_results_need_no_features(tiny, tmp_path, monkeypatch):
    measure = dict.fromkeys(measurements.measures(), lambda study: {"seen": len(study.test.labels)})
    monkeypatch.setattr(measurements, "measures", lambda: measure)
    results = lite0.run(tmp_path, quiet)
    assert {run["measured"]["seen"] for run in results["runs"].values()} == {4}
    monkeypatch.setattr(lite0, "train_exits", lambda *_: pytest.fail("computed again"))
    assert lite0.run(tmp_path, quiet) == results


def test_images_are_enlarged_and_scaled_as_the_network_was_trained(network):
    split = Images(torch.full((3, 3, 64, 64), 255, dtype=torch.uint8), torch.tensor([0, 1, 2]))
    x, y = next(iter(lite0.ResizedImages(split)))
    assert x.shape == (3, 3, lite0.SIZE, lite0.SIZE)
    assert torch.allclose(x, torch.ones(()))
    assert y.tolist() == [0, 1, 2]


def test_without_the_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(lite0.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="experiments"):
        lite0.backbone()
