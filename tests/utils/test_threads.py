import math
import threading

import pytest
import torch
from torch import nn

from suffice import calibrate
from suffice.calibration.likelihoods import classification
from suffice.training.loop import train
from suffice.utils import threads
from suffice.variation.learning import mlp
from suffice.variation.teachers.dropout import MCDropout
from tests import builders


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_small_work_has_one_thread_and_other_work_as_many_as_before():
    for numbers, count in ((0, 1), (threads.SLICE, 1), (threads.SLICE + 1, 2), (math.inf, 2)):
        with threads.small(numbers):
            assert torch.get_num_threads() == count
        assert torch.get_num_threads() == 2


def test_the_threads_come_back_after_an_error_and_when_scopes_are_nested():
    def fail():
        with threads.small(1):
            with threads.small(1):
                pass
            assert torch.get_num_threads() == 1
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert torch.get_num_threads() == 2


def test_other_threads_notice_nothing_be_they_there_or_new():
    entered, looked, seen = threading.Event(), threading.Event(), []

    def bystander():
        seen.append(torch.get_num_threads())
        entered.wait()
        seen.append(torch.get_num_threads())
        looked.set()

    old = threading.Thread(target=bystander)
    old.start()
    with threads.small(1):
        entered.set()
        looked.wait()
        new = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        new.start()
        new.join()
    old.join()
    assert len(set(seen)) == 1
    assert seen[0] > 1


def test_a_thread_that_has_not_computed_before_keeps_to_the_scope():
    seen = []

    def new():
        with threads.small(1):
            torch.randn(300, 300) @ torch.randn(300, 300)
            seen.append(torch.get_num_threads())

    thread = threading.Thread(target=new)
    thread.start()
    thread.join()
    assert seen == [1]


def test_threads_that_enter_and_leave_in_turn_each_have_their_own_back():
    turns, found = [threading.Event() for _ in range(2)], {}

    def first():
        torch.set_num_threads(3)
        with threads.small(1):
            turns[0].set()
            turns[1].wait()
        found["first"] = torch.get_num_threads()

    def second():
        turns[0].wait()
        torch.set_num_threads(4)
        with threads.small(1):
            turns[1].set()
            one.join()
            found["inside"] = torch.get_num_threads()
        found["second"] = torch.get_num_threads()

    one, other = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    other.start()
    other.join()
    assert found == {"first": 3, "inside": 1, "second": 4}


@pytest.mark.parametrize(
    ("shape", "dtype", "positions"),
    [
        ((8, 3), torch.float32, 8),
        ((8,), torch.float32, 8),
        ((8, 3, 5, 7), torch.float32, 8 * 5 * 7),
        ((8, 3, 2, 5, 7), torch.float32, 8 * 2 * 5 * 7),
        ((8, 6, 16), torch.float32, 8 * 6),
        ((8, 6), torch.int64, 8 * 6),
    ],
)
def test_a_models_largest_product_is_bounded_by_its_weights_and_positions(shape, dtype, positions):
    model = nn.Sequential(nn.Embedding(1000, 50), nn.Linear(4, 30), nn.Linear(30, 5))
    assert threads.of_layers(model, {"x": torch.zeros(shape, dtype=dtype)}) == positions * 150 / 16


def test_the_bound_holds_for_a_convolution():
    conv, x = nn.Conv2d(3, 8, 3, padding=1), torch.zeros(2, 3, 6, 5)
    assert threads.of_layers(conv, x) == conv(x)[:, 0].numel() * conv.weight.numel() / 16


def test_products_of_layers_are_noted_while_they_are_watched_and_no_hook_stays():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 5))
    x = torch.zeros(2, 3, 4, 4)
    with threads.watched(model) as seen:
        model(x)
    assert seen == [2 * 8 * 16 * 27 / 16, 2 * 5 * 32 / 16]
    model(x)
    assert len(seen) == 2
    assert not any(layer._forward_hooks for layer in model.modules())


@pytest.mark.parametrize(("limit", "count"), [(1e9, 1), (0, 2)])
def test_few_dropout_passes_of_a_small_network_have_one_thread(limit, count, monkeypatch):
    monkeypatch.setattr(threads, "SLICE", limit)
    seen = []
    monkeypatch.setattr(Watching, "note", staticmethod(seen.append))  # the passes run twins of the model
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(), Watching(), nn.Linear(8, 4)).eval()
    MCDropout(passes=4)(model, builders.inputs(16))
    assert seen[-1] == count


def test_what_is_not_on_the_processor_is_not_small():
    assert threads.of_products(1, [torch.zeros(1, device="meta")]) == math.inf


class Watching(nn.Module):
    """A stage that notes the threads that it is run with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.note(torch.get_num_threads())
        return x

    def note(self, count):
        self.seen.append(count)


@pytest.mark.parametrize(("limit", "count"), [(1e9, 1), (0, 2)])
def test_training_a_small_network_has_one_thread_and_other_training_all(limit, count, monkeypatch):
    monkeypatch.setattr(threads, "SLICE", limit)
    net, x = builders.network(), builders.inputs(32)
    net.stages[0].append(Watching())
    train(net, builders.batched(x, torch.arange(32) % 4), epochs=2)
    assert net.stages[0][-1].seen == [count] * 4


@pytest.mark.parametrize(("limit", "count"), [(1e9, 1), (0, 2)])
def test_small_fits_have_one_thread(limit, count, monkeypatch):
    monkeypatch.setattr(threads, "SLICE", limit)
    seen = []

    def loss(outputs, labels):
        seen.append(torch.get_num_threads())
        return (outputs - labels).square().mean()

    weights = mlp.initial(3, (4,), 1, torch.device("cpu"), None)
    rows = torch.randn(50, 3), torch.randn(50, 1)
    mlp.train(weights, rows, rows, loss, 2, None)
    assert seen == [count] * 4


@pytest.mark.filterwarnings("ignore:.* ended at the edge")
@pytest.mark.parametrize(("limit", "count"), [(1e9, 1), (0, 2)])
def test_tuning_on_few_examples_has_one_thread(limit, count, monkeypatch):
    monkeypatch.setattr(threads, "SLICE", limit)
    seen, nll = set(), classification.Likelihood.nll

    def watched(self, prediction, targets):
        seen.add(torch.get_num_threads())
        return nll(self, prediction, targets)

    monkeypatch.setattr(classification.Likelihood, "nll", watched)
    loader = builders.batched(builders.inputs(32), torch.arange(32) % 4)
    calibrate(builders.network(widths=(4,)), loader, loader, samples=2)
    assert seen == {count}
    assert torch.get_num_threads() == 2
