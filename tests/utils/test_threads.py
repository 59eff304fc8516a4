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
    for numbers, count in ((0, 1), (threads.MAX_SMALL_WORK, 1), (threads.MAX_SMALL_WORK + 1, 2), (math.inf, 2)):
        with threads.one_thread_if_small(numbers):
            assert torch.get_num_threads() == count
        assert torch.get_num_threads() == 2


def test_the_threads_come_back_after_an_error_and_when_scopes_are_nested():
    def fail():
        with threads.one_thread_if_small(1):
            with threads.one_thread_if_small(1):
                pass
            assert torch.get_num_threads() == 1
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert torch.get_num_threads() == 2


def test_existing_and_new_threads_are_not_affected():
    entered, checked, counts = threading.Event(), threading.Event(), []

    def bystander():
        counts.append(torch.get_num_threads())
        entered.wait()
        counts.append(torch.get_num_threads())
        checked.set()

    existing = threading.Thread(target=bystander)
    existing.start()
    with threads.one_thread_if_small(1):
        entered.set()
        checked.wait()
        new = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
        new.start()
        new.join()
    existing.join()
    assert len(set(counts)) == 1
    assert counts[0] > 1


def test_a_new_thread_stays_at_one_thread_after_its_first_operation():
    counts = []

    def compute():
        with threads.one_thread_if_small(1):
            torch.randn(300, 300) @ torch.randn(300, 300)
            counts.append(torch.get_num_threads())

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert counts == [1]


def test_threads_that_enter_and_leave_in_turn_each_restore_their_own_number():
    turns, counts = [threading.Event() for _ in range(2)], {}

    def first():
        torch.set_num_threads(3)
        with threads.one_thread_if_small(1):
            turns[0].set()
            turns[1].wait()
        counts["first"] = torch.get_num_threads()

    def second():
        turns[0].wait()
        torch.set_num_threads(4)
        with threads.one_thread_if_small(1):
            turns[1].set()
            one.join()
            counts["inside"] = torch.get_num_threads()
        counts["second"] = torch.get_num_threads()

    one, other = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    other.start()
    other.join()
    assert counts == {"first": 3, "inside": 1, "second": 4}


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
    assert threads.largest_layer_work(model, {"x": torch.zeros(shape, dtype=dtype)}) == positions * 150 / 16


def test_the_bound_holds_for_a_convolution():
    conv, x = nn.Conv2d(3, 8, 3, padding=1), torch.zeros(2, 3, 6, 5)
    assert threads.largest_layer_work(conv, x) == conv(x)[:, 0].numel() * conv.weight.numel() / 16


def test_products_of_layers_are_recorded_and_no_hook_stays():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 5))
    x = torch.zeros(2, 3, 4, 4)
    with threads.record_layer_work(model) as recorded:
        model(x)
    assert recorded == [2 * 8 * 16 * 27 / 16, 2 * 5 * 32 / 16]
    model(x)
    assert len(recorded) == 2
    assert not any(layer._forward_hooks for layer in model.modules())


@pytest.mark.parametrize(("limit", "count"), [(1e9, 1), (0, 2)])
def test_few_dropout_passes_of_a_small_network_have_one_thread(limit, count, monkeypatch):
    monkeypatch.setattr(threads, "MAX_SMALL_WORK", limit)
    seen = []
    monkeypatch.setattr(RecordsThreads, "note", staticmethod(seen.append))  # as the passes run on twins of the model
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(), RecordsThreads(), nn.Linear(8, 4)).eval()
    MCDropout(passes=4)(model, builders.inputs(16))
    assert seen[-1] == count


def test_work_on_another_device_is_not_small():
    assert threads.matmul_work(1, [torch.zeros(1, device="meta")]) == math.inf


class RecordsThreads(nn.Module):
    """Identity that records the number of threads of each call."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.note(torch.get_num_threads())
        return x

    def note(self, count):
        self.seen.append(count)


@pytest.mark.parametrize(("limit", "count"), [(1e9, 1), (0, 2)])
def test_only_training_of_a_small_network_has_one_thread(limit, count, monkeypatch):
    monkeypatch.setattr(threads, "MAX_SMALL_WORK", limit)
    net, x = builders.network(), builders.inputs(32)
    net.stages[0].append(RecordsThreads())
    train(net, builders.batched(x, torch.arange(32) % 4), epochs=2)
    assert net.stages[0][-1].seen[-4:] == [count] * 4  # before them, the loss at the start is measured


@pytest.mark.parametrize(("limit", "count"), [(1e9, 1), (0, 2)])
def test_small_fits_have_one_thread(limit, count, monkeypatch):
    monkeypatch.setattr(threads, "MAX_SMALL_WORK", limit)
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
    monkeypatch.setattr(threads, "MAX_SMALL_WORK", limit)
    seen, nll = set(), classification.Likelihood.nll

    def watched(self, prediction, targets):
        seen.add(torch.get_num_threads())
        return nll(self, prediction, targets)

    monkeypatch.setattr(classification.Likelihood, "nll", watched)
    loader = builders.batched(builders.inputs(32), torch.arange(32) % 4)
    calibrate(builders.network(widths=(4,)), loader, loader, samples=2)
    assert seen == {count}
    assert torch.get_num_threads() == 2
