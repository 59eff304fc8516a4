from dataclasses import replace

import pytest
import torch

import suffice
from suffice.models import msdnet, zoo
from tests.robustness import kinds

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # tuning on 24 images of noise warns


@pytest.fixture(scope="module")
def shipped():
    return kinds.shipped()


def test_a_shipped_network_gives_the_same_answers(shipped, tmp_path):
    zoo.ship(tmp_path / "net", shipped, "cifar-small")
    again = zoo.load(tmp_path / "net")
    x = torch.randn(5, 3, 32, 32)
    before, after = (suffice.run(net.calibrated, net.policy, x) for net in (shipped, again))
    assert torch.equal(before.probs, after.probs)
    assert torch.equal(before.exit, after.exit)
    assert again.classes == shipped.classes
    assert again.card == "#"


def test_pixels_are_prepared_by_the_training_mean_and_deviation(shipped):
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    assert shipped.prepare(pixels)[:, 0, 0, 0].tolist() == [-2.0, 2.0]


def test_weights_that_would_be_rounded_after_calibration_are_refused(shipped, tmp_path):
    torch.manual_seed(0)
    unrounded = replace(shipped, network=msdnet("cifar-small", num_classes=3))
    with pytest.raises(ValueError, match="half precision"):
        zoo.ship(tmp_path / "net", unrounded, "cifar-small")
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="expected one of"):
        suffice.models.pretrained("resnet50")


@pytest.mark.parametrize("name", zoo.names())
def test_the_pretrained_networks_load_and_are_small(name):
    pretrained = suffice.models.pretrained(name)
    assert len(pretrained.classes) == pretrained.network.num_classes
    assert (zoo.FOLDER / name / "network" / "tensors.safetensors").stat().st_size <= 3_000_000
    answer = suffice.run(pretrained.calibrated, pretrained.policy, torch.zeros(2, 3, 32, 32))
    assert answer.probs.shape == (2, len(pretrained.classes))


def test_only_a_shipped_folder_is_replaced(shipped, tmp_path):
    for _ in range(2):
        zoo.ship(tmp_path / "net", shipped, "cifar-small")
    for file in ("mine.txt", "policy/mine.txt"):
        (tmp_path / "net" / file).write_text("mine")
        with pytest.raises(FileExistsError, match=r"got also (policy/)?mine.txt; move that away"):
            zoo.ship(tmp_path / "net", shipped, "cifar-small")
        (tmp_path / "net" / file).unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "card.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"suffice\.save did not write"):
        zoo.ship(tmp_path / "other", shipped, "cifar-small")
    assert (tmp_path / "other" / "card.md").read_text() == "mine"
