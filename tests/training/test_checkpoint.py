import os

import pytest
import torch
from torch import nn

from suffice.storage import places
from suffice.training.checkpoint import Keeper


def keeper(path):
    torch.manual_seed(0)
    network = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return Keeper(path, network, optimizer, {"epochs": 9}, -1.0, None)


def written(path):
    keeper(path).after_step(3, torch.tensor(1.0), 3)
    return path


def test_a_training_goes_on_from_what_is_there(tmp_path):
    assert keeper(written(tmp_path / "c")).position.step == 3


def test_what_the_optimiser_remembers_goes_on_with_the_weights(tmp_path):
    def training(path):
        torch.manual_seed(0)
        network = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        return network, optimizer, Keeper(path, network, optimizer, {"epochs": 9}, -1.0, None)

    def step(network, optimizer):
        optimizer.zero_grad()
        network(torch.ones(3, 2)).square().sum().backward()
        optimizer.step()

    network, optimizer, kept = training(tmp_path / "c")
    step(network, optimizer)
    kept.after_step(3, torch.tensor(1.0), 3)
    step(network, optimizer)
    again, remembering, _ = training(tmp_path / "c")
    step(again, remembering)
    assert all(map(torch.equal, again.parameters(), network.parameters()))


def test_a_training_goes_on_from_the_old_checkpoint_that_a_crash_left_beside_its_place(tmp_path):
    written(tmp_path / "c").rename(places.aside(tmp_path / "c"))
    assert keeper(tmp_path / "c").position.step == 3
    written(tmp_path / "c")
    assert os.listdir(tmp_path) == ["c"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("unmounted", path)])
def test_what_is_no_checkpoint_is_refused_before_anything_is_trained(tmp_path, make):
    make(tmp_path / "c")
    with pytest.raises(FileNotFoundError, match=r"expected an artifact with manifest.json, found none at .*/c"):
        keeper(tmp_path / "c")


def test_a_checkpoint_that_could_not_be_replaced_is_refused_before_anything_is_trained(tmp_path):
    (written(tmp_path / "c") / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"got also notes\.txt; move that away"):
        keeper(tmp_path / "c")


def test_it_is_written_after_the_seconds_that_were_asked_for_and_at_the_end(tmp_path, monkeypatch):
    clock = iter([10.0, 21.0, 35.0, 35.0, 46.0, 47.0, 47.0])
    monkeypatch.setattr("suffice.training.checkpoint.time.monotonic", lambda: next(clock))
    network = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    kept, written = Keeper(tmp_path / "c", network, optimizer, {"epochs": 4}, 12.0, None), []
    for _ in range(4):
        before = os.path.exists(tmp_path / "c") and os.stat(tmp_path / "c").st_ino
        kept.end_epoch(1.0)
        written.append(os.path.exists(tmp_path / "c") and os.stat(tmp_path / "c").st_ino != before)
    assert written == [False, True, False, True]


@pytest.mark.parametrize("seeded", [False, True])
def test_the_generators_of_an_epoch_that_was_begun_are_set_back(tmp_path, seeded):
    def training():
        torch.manual_seed(0)
        network = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        loader = torch.Generator().manual_seed(1) if seeded else None
        return Keeper(tmp_path / "c", network, optimizer, {"epochs": 9}, -1.0, loader), loader

    def order(loader):
        return torch.rand(3), torch.rand(3, generator=loader)

    kept, loader = training()
    kept.begin_epoch()
    drawn = order(loader)
    kept.after_step(3, torch.tensor(1.0), 3)
    again, loader = training()
    order(loader)
    assert again.begin_epoch().step == 3
    assert all(map(torch.equal, order(loader), drawn))
