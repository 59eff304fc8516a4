import asyncio
import json
import math
import os
import time

import numpy as np
import pytest
import torch

pytest.importorskip("aiohttp")
pytest.importorskip("tritonclient.http.aio")
pytest.importorskip("uvicorn")
pytest.importorskip("onnxscript")

from benchmarks.service import __main__ as command
from benchmarks.service import bundles, load, report
from benchmarks.service.clients import RefusedError
from benchmarks.service.goodput import Curve, goodput
from benchmarks.service.measure import Book, summarize
from benchmarks.service.peers.graphs import Stages, Whole

from suffice_runtime import Runner

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("bundles")
    bundles.tiny(found)
    return found


@pytest.fixture(scope="module")
def examples(folder):
    with np.load(folder / bundles.EXAMPLES) as found:
        return found["x"]


def test_arrivals_are_those_of_a_poisson_process():
    times = load.arrivals(500, 20, seed=0)
    gaps = np.diff(times)
    assert (gaps > 0).all()
    assert times[-1] < 20
    assert abs(len(times) - 10_000) < 5 * math.sqrt(10_000)
    # The deviation of an exponential is its mean; the error of that of n gaps is about its mean × √(2 / n).
    assert abs(gaps.std() / gaps.mean() - 1) < 5 * math.sqrt(2 / len(gaps))
    np.testing.assert_array_equal(times, load.arrivals(500, 20, seed=0))


class Stalled:
    """Client whose server answers nothing before some time, and has no room for every third request."""

    def __init__(self, seconds):
        self.free, self.count = time.perf_counter() + seconds, 0

    async def infer(self, rows):
        self.count += 1
        if self.count % 3 == 0:
            raise RefusedError
        await asyncio.sleep(max(0.0, self.free - time.perf_counter()))
        return rows, np.full(len(rows), 0.5), np.zeros(len(rows), dtype=int)


def test_requests_that_come_while_a_server_stalls_are_sent_and_charged_for():
    times, answers = np.linspace(0, 0.2, 21), load.Answers(21, 1, 5, 10)
    start, count = asyncio.run(load.open_loop(Stalled(0.5), times, answers))
    assert count == 21
    np.testing.assert_allclose(answers.due - start, times, atol=1e-9)
    assert (answers.sent >= answers.due).all()
    assert answers.sent.max() < start + 0.45  # none waited for an answer
    done = answers.status == load.ANSWERED
    assert (answers.status[~done] == load.REFUSED).all()
    assert (~done).sum() == 7
    assert (answers.ended[done] - answers.due[done] > 0.2).all()
    assert answers.label[done].ravel().tolist() == [(5 + i) % 10 for i in done.nonzero()[0]]


def test_a_closed_loop_keeps_a_number_of_requests_waiting():
    answers = load.Answers(9, 2, 0, 10)
    _, count = asyncio.run(load.closed_loop(Stalled(0), 4, 60, answers))
    assert count == 9
    assert answers.example[1].tolist() == [2, 3]


def test_a_load_is_summarized_from_the_intended_times():
    due = np.arange(100) / 100
    answers = {
        "status": np.where(np.arange(100) < 90, load.ANSWERED, load.REFUSED),
        "due": due,
        "sent": due + 0.001,
        "ended": due + 0.010,
        "example": np.arange(100)[:, None] % 2,
        "label": np.zeros((100, 1), dtype=int),
        "exit": np.ones((100, 1), dtype=int),
    }
    point = summarize(answers, labels=np.array([0, 1]), seconds=1.0)
    assert (point.offered, point.answered, point.refused) == (100, 90, pytest.approx(0.1))
    assert (point.p50, point.p99, point.late) == (pytest.approx(10), pytest.approx(10), pytest.approx(1))
    assert (point.accuracy, point.exits) == (0.5, 1)


def test_goodput_is_where_the_curve_crosses_the_bound():
    curve = Curve([100, 200, 300], [10, 20, 2000])
    assert goodput(curve, 200) == pytest.approx(250)
    assert goodput(curve, 5) == 0
    assert goodput(curve, 5000) == 300
    assert goodput(Curve([100, 200], [10, math.nan]), 50) == 100


def test_results_are_made_once_and_not_mixed_with_those_of_other_settings(tmp_path):
    file, made = tmp_path / "found.json", iter([1, 2])
    book = Book(file, {"seconds": 1}, {"date": "today"})
    assert book.once("a", lambda: next(made)) == 1
    again = Book(file, {"seconds": 1}, {"date": "tomorrow"})
    assert again.once("a", lambda: next(made)) == 1
    assert again.once("b", lambda: next(made)) == 2
    assert json.loads(file.read_text())["date"] == "today"
    with pytest.raises(ValueError, match="the same seconds"):
        Book(file, {"seconds": 2}, {})


def test_peers_answer_as_the_runner_does(folder, examples):
    runner, stages = Runner(folder / bundles.HALF), Stages(folder / bundles.HALF)
    answer, left, carried = runner.run(examples), np.arange(len(examples)), [examples]
    for k in range(stages.count):
        if not len(left):
            break
        stops, label, confidence, carried = stages(k, carried)
        np.testing.assert_array_equal(answer.exit[left[stops]], k)
        np.testing.assert_array_equal(answer.label[left[stops]], label[stops])
        np.testing.assert_allclose(answer.confidence[left[stops]], confidence[stops], atol=1e-5)
        left, carried = left[~stops], [array[~stops] for array in carried]
    assert not len(left)
    label, confidence = Whole(folder / bundles.FULL)(examples)
    whole = Runner(folder / bundles.FULL).run(examples)
    np.testing.assert_array_equal(whole.label, label)
    np.testing.assert_allclose(whole.confidence, confidence, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="servers and load generator need a core each")
def test_a_measurement_runs_from_servers_to_tables(folder, tmp_path, capsys):
    threads = torch.get_num_threads()
    try:
        command.main(["--quick", "--out", str(tmp_path)])
        first = capsys.readouterr().out
        command.main(["--report", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().out == first
    entries = json.loads((tmp_path / "service.json").read_text())
    assert first.strip() == report.markdown(entries)
    found = report.Found(entries)
    for name, bundle in (("suffice half", bundles.HALF), ("suffice full", bundles.FULL)):
        (one,) = found.rounds[name]
        assert one["quality"]["examples"] > 0
        with np.load(tmp_path / "tiny" / bundles.EXAMPLES) as examples:
            right = Runner(tmp_path / "tiny" / bundle).run(examples["x"]).label == examples["labels"]
        if one["quality"]["examples"] == len(right):
            assert one["quality"]["accuracy"] == pytest.approx(right.mean())
    assert "not measured" in first  # the peers
