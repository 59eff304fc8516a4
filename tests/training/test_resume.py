"""Training that is interrupted and resumes from its checkpoint."""

import json
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from torch import nn

import suffice
from suffice.data.sources import digits
from suffice.training import Checkpointing, SGDConfig, cosine, losses, train


class KilledError(Exception):
    pass


def dropping():
    """Return a network with dropout, whose training draws random numbers."""
    torch.manual_seed(0)
    stage = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5))
    exits = [suffice.Exit(nn.Identity(), nn.Linear(16, 10)), suffice.Exit(nn.Dropout(0.2), nn.Linear(16, 10))]
    return suffice.ExitNetwork([stage, nn.Linear(16, 16)], exits)


def loaders(kind):
    """Return a loader with its own generator, or one that draws from torch's, and that generator or None."""
    data = digits.load(0).train
    if kind == "own":
        generator = torch.Generator().manual_seed(3)
        return data.shuffled(200, generator=generator), generator
    torch.manual_seed(3)
    dataset = torch.utils.data.TensorDataset(data.images, data.labels)
    return torch.utils.data.DataLoader(dataset, 200, shuffle=True), None


@pytest.mark.parametrize("kind", ["own", "torch's"])
@pytest.mark.parametrize("when", [2, 3, 4, 6, 11])
def test_an_interrupted_training_ends_with_the_same_bytes(kind, when, tmp_path):
    """The training has four steps an epoch, is killed after a step, and resumes with new objects."""
    network = dropping()
    loader, _ = loaders(kind)
    uninterrupted = train(network, loader, epochs=3)

    def kill(progress, reports=[]):  # noqa: B006
        reports.append(progress)
        if len(reports) == when:
            raise KilledError

    killed = dropping()
    loader, generator = loaders(kind)
    checkpoint = Checkpointing(tmp_path / "run", every=0.0, generator=generator)
    with pytest.raises(KilledError):
        train(killed, loader, epochs=3, checkpoint=checkpoint, on_step=kill)
    resumed = dropping()
    loader, generator = loaders(kind)
    checkpoint = Checkpointing(tmp_path / "run", every=0.0, generator=generator)
    torch.manual_seed(99)
    assert train(resumed, loader, epochs=3, checkpoint=checkpoint) == uninterrupted
    for name, value in network.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_a_finished_training_is_not_repeated(tmp_path):
    network, (loader, generator) = dropping(), loaders("own")
    history = train(network, loader, epochs=2, checkpoint=Checkpointing(tmp_path / "run", generator=generator))
    again = dropping()
    assert train(again, [], epochs=2, checkpoint=Checkpointing(tmp_path / "run")) == history
    assert torch.equal(again.exit(1).classifier.weight, network.exit(1).classifier.weight)


def halving(power):
    """Return a schedule that is a new function at each call, as in another process."""

    def to_the_power(done, power):
        return 0.5 ** (power * done)

    return partial(to_the_power, power=power)


def test_a_training_resumes_with_an_equal_loss_and_schedule(tmp_path):
    (first, again), data = [halving(2.0), halving(2.0)], digits.load(0).train.batches()
    options = {"epochs": 1, "loss": losses.Distilled(), "checkpoint": Checkpointing(tmp_path / "run")}
    history = train(dropping(), data, optimizer=SGDConfig(schedule=first), **options)
    assert train(dropping(), [], optimizer=SGDConfig(schedule=again), **options) == history


@pytest.mark.parametrize(
    "other",
    [
        {"epochs": 2},
        {"exits_only": True},
        {"optimizer": SGDConfig(nesterov=True, schedule=halving(2.0))},
        {"loss": None},
        {"loss": losses.Distilled(temperature=2.0)},
        {"loss": losses.Weighted([1.0, 2.0])},
        {"optimizer": SGDConfig(schedule=cosine)},
        {"optimizer": SGDConfig(schedule=halving(1.0))},
    ],
)
def test_a_checkpoint_of_another_training_is_refused(network, tmp_path, other):
    options = {"epochs": 1, "loss": losses.Distilled(), "optimizer": SGDConfig(schedule=halving(2.0))}
    options["checkpoint"] = Checkpointing(tmp_path / "run")
    train(network, digits.load(0).train.batches(), **options)
    with pytest.raises(ValueError, match="resume with the same settings"):
        train(network, [], **{**options, **other})


def test_a_checkpoint_of_another_likelihood_is_refused(network, tmp_path):
    checkpoint = Checkpointing(tmp_path / "run")
    train(network, digits.load(0).train.batches(), epochs=1, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="resume with the same settings"):
        train(network, [], epochs=1, likelihood="regression", checkpoint=checkpoint)


PROGRAM = """
import sys, json, torch
from tests.training.test_resume import dropping, loaders
from suffice.training import Checkpointing, train
network = dropping()
loader, generator = loaders("own")
train(network, loader, epochs=int(sys.argv[2]), checkpoint=Checkpointing(sys.argv[1], 0.0, generator))
print(json.dumps([value.double().sum().item() for value in network.state_dict().values()]))
"""


@pytest.mark.slow
def test_a_training_resumes_after_its_process_is_killed(tmp_path):
    def start(folder, epochs=100):
        command = [sys.executable, "-c", PROGRAM, str(folder), str(epochs)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    expected = json.loads(start(tmp_path / "whole").communicate()[0])
    for wait in (0.0, 0.3):
        victim = start(tmp_path / "killed")
        while not (tmp_path / "killed" / "manifest.json").exists():
            assert victim.poll() is None
            time.sleep(0.01)
        time.sleep(wait)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        victim.stdout.close()
    assert json.loads(start(tmp_path / "killed").communicate()[0]) == expected
