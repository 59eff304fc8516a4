import shutil

import pytest
import torch

import suffice
from suffice.runs import folder, networks
from tests.runs import modules
from tests.runs.conftest import NETWORK

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of")


def test_a_run_answers_as_what_was_saved(run_folder):
    run, x = folder.read(str(run_folder)), torch.randn(9, 3)
    calibrated = suffice.load(run_folder / "calibrated", network=modules.network())
    assert torch.equal(run.calibrated(x)[-1].probs, calibrated(x)[-1].probs)
    assert run.fitted is run.calibrated
    assert run.policy.made_for == calibrated.digest
    assert run.estimator is None


def test_the_network_and_its_weights_are_named_for_a_folder_without(run_folder, tmp_path):
    shutil.rmtree(run_folder / "network")
    with pytest.raises(ValueError, match=r"got none; name it by --network package.module:function"):
        folder.read(str(run_folder))
    torch.save(modules.network().state_dict(), tmp_path / "w.pt")
    run = folder.read(str(run_folder), "tests.runs.modules:other", tmp_path / "w.pt")
    assert run.calibrated.network is run.network
    with pytest.raises(ValueError, match="expected --network with --weights"):
        folder.read(str(run_folder), None, tmp_path / "w.pt")


def test_a_network_with_other_weights_is_refused(run_folder):
    with pytest.raises(ValueError, match="expected"):
        folder.read(str(run_folder), "tests.runs.modules:other")


def test_a_policy_of_another_network_is_refused(run_folder):
    loader = modules.sets().validation
    other = suffice.calibrate(modules.other(), None, loader, structure=None)
    suffice.save(suffice.allocate(other, loader, 0.7), run_folder / "policy")
    with pytest.raises(ValueError, match="expected a policy"):
        folder.read(str(run_folder))


def test_an_estimator_alone_is_a_run(tmp_path):
    network, x = modules.network(), torch.randn(80, 3)
    teacher = suffice.MCDropout(rate=0.2, at=["stages.*"], passes=4)
    estimator = suffice.fit_variation(network, [x[:60]], [x[60:]], teacher=teacher, layers="last", epochs=1)
    networks.save(network, NETWORK, tmp_path / "network")
    suffice.save(estimator, tmp_path / "variation")
    run = folder.read(str(tmp_path))
    assert run.calibrated is None
    assert torch.equal(run.fitted.estimate(x).variation, estimator.estimate(x).variation)


def test_an_estimator_of_another_network_is_named_and_can_be_left_out(run_folder):
    network, x = modules.other(), torch.randn(80, 3)
    teacher = suffice.MCDropout(rate=0.2, at=["stages.*"], passes=4)
    estimator = suffice.fit_variation(network, [x[:60]], [x[60:]], teacher=teacher, layers="last", epochs=1)
    suffice.save(estimator, run_folder / "variation")
    with pytest.raises(ValueError, match=r"in .*variation: .*; fit the estimator to the network with exits, or leave"):
        folder.read(str(run_folder))
    assert folder.read(str(run_folder), variation=False).estimator is None


def test_a_pretrained_network_is_a_run():
    run = folder.read("cifar100-msdnet-small")
    assert len(run.class_names) == 100
    assert len(run.preprocessing["mean"]) == 3
    assert run.policy.made_for == run.calibrated.digest
    with pytest.raises(ValueError, match="expected no --network and no --weights for the pretrained"):
        folder.read("cifar100-msdnet-small", NETWORK)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_a_run_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected a folder with calibrated or variation, as suffice.save"):
        folder.read(str(tmp_path / name))
