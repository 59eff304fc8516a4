import os

import pytest
import torch
from torch import nn

import suffice
from suffice.storage import paths
from suffice.training.checkpoint import Checkpointer
from suffice.training.config import Checkpointing


def small_network():
    return suffice.ExitNetwork([nn.Identity()], [suffice.Exit(nn.Identity(), nn.Linear(2, 2))])


def checkpointer(path, generator=None, make=torch.optim.SGD, **options):
    """Return a checkpointer that writes after every step, with the network and the optimizer of its training."""
    torch.manual_seed(0)
    network = small_network()
    optimizer = make(network.parameters(), lr=0.1, **options)
    training = Checkpointer(Checkpointing(path, every=-1.0, generator=generator), network, 9)
    training.resume(optimizer, {"epochs": 9}, own_rates=False)
    return training, network, optimizer


def resumed_step(path):
    return checkpointer(path)[0].position.step


def write_checkpoint(path):
    checkpointer(path)[0].after_step(3, torch.tensor(1.0), 3)
    return path


def test_a_training_resumes_from_its_checkpoint(tmp_path):
    assert resumed_step(write_checkpoint(tmp_path / "c")) == 3


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.SGD, {}),
        (torch.optim.AdamW, {"amsgrad": True}),
        (torch.optim.RAdam, {}),
        (torch.optim.NAdam, {}),
        (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
        (torch.optim.Adagrad, {}),
        (torch.optim.Rprop, {}),
        (torch.optim.Adafactor, {}),
    ],
)
def test_the_state_of_an_optimizer_is_restored_with_the_weights(tmp_path, make, options):
    def step(network, optimizer):
        optimizer.zero_grad()
        network(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))[0].square().sum().backward()
        optimizer.step()

    first, network, optimizer = checkpointer(tmp_path / "c", make=make, **options)
    for _ in range(2):
        step(network, optimizer)
    first.after_step(3, torch.tensor(1.0), 3)
    step(network, optimizer)
    _, resumed, resumed_optimizer = checkpointer(tmp_path / "c", make=make, **options)
    step(resumed, resumed_optimizer)
    assert all(map(torch.equal, resumed.parameters(), network.parameters()))


def test_a_training_resumes_from_the_old_checkpoint_that_a_crash_left_beside_its_place(tmp_path):
    write_checkpoint(tmp_path / "c").rename(paths.backup_path(tmp_path / "c"))
    assert resumed_step(tmp_path / "c") == 3
    write_checkpoint(tmp_path / "c")
    assert os.listdir(tmp_path) == ["c"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("unmounted", path)])
def test_another_file_is_refused_before_any_training(tmp_path, make):
    make(tmp_path / "c")
    with pytest.raises(FileNotFoundError, match=r"expected an artifact with manifest.json, found none at .*/c"):
        checkpointer(tmp_path / "c")


def test_a_checkpoint_that_could_not_be_replaced_is_refused_before_any_training(tmp_path):
    (write_checkpoint(tmp_path / "c") / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"got also notes\.txt; move that away"):
        checkpointer(tmp_path / "c")


def test_a_checkpoint_is_written_after_the_given_seconds_and_at_the_end(tmp_path, monkeypatch):
    clock = iter([10.0, 21.0, 35.0, 35.0, 46.0, 47.0, 47.0])
    monkeypatch.setattr("suffice.training.checkpoint.time.monotonic", lambda: next(clock))
    network, written = small_network(), []
    training = Checkpointer(Checkpointing(tmp_path / "c", 12.0), network, 4)
    training.resume(torch.optim.SGD(network.parameters(), lr=0.1), {"epochs": 4}, own_rates=False)
    for _ in range(4):
        before = os.path.exists(tmp_path / "c") and os.stat(tmp_path / "c").st_ino
        training.end_epoch(1.0, 3)
        written.append(os.path.exists(tmp_path / "c") and os.stat(tmp_path / "c").st_ino != before)
    assert written == [False, True, False, True]


@pytest.mark.parametrize("seeded", [False, True])
def test_the_generators_are_restored_to_the_start_of_an_interrupted_epoch(tmp_path, seeded):
    def training():
        generator = torch.Generator().manual_seed(1) if seeded else None
        return checkpointer(tmp_path / "c", generator)[0], generator

    def draws(generator):
        return torch.rand(3), torch.rand(3, generator=generator)

    first, generator = training()
    first.begin_epoch()
    expected = draws(generator)
    first.after_step(3, torch.tensor(1.0), 3)
    resumed, generator = training()
    draws(generator)
    assert resumed.begin_epoch().step == 3
    assert all(map(torch.equal, draws(generator), expected))
