import math
import time
from dataclasses import replace
from urllib.parse import quote

import numpy as np
import pytest

pytest.importorskip("uvicorn")

import bundles
from http_server import started, until
from suffice_runtime.http import recording, state
from suffice_runtime.serving import history

PATH = "/v1/models/net/state"
PREDICT = "/v1/models/net/predict"


@pytest.fixture
def fast(monkeypatch):
    """Let histories have a point every 20 ms."""
    monkeypatch.setattr(history, "SECONDS", 0.02)


def test_the_state_is_that_of_what_was_served(runner):
    x = bundles.inputs(40)
    with started(runner) as server:
        server.json("POST", PREDICT, {"inputs": x.tolist()})
        status, headers, _ = server.send("GET", PATH)
        assert (status, headers["cache-control"]) == (200, "no-store")
        found = server.json("GET", PATH)[1]
        counts = server.engine().statistics()
        until(lambda: sum(server.engine().watch().exits) == 40)
        watched = server.json("GET", PATH)[1]["watch"]
    assert (found["name"], found["version"], found["latest"], found["ready"]) == ("net", "1", True, True)
    assert (found["kind"], found["token"]) == ("classification", False)
    assert found["statistics"]["exits"] == list(counts.exits)
    assert found["statistics"]["request_seconds"]["counts"] == list(counts.request_seconds.counts)
    assert found["recent"]["requests"] == 1
    assert 0 < found["recent"]["examples_per_second"] <= 40 / found["recent"]["seconds"] * (1 + 1e-12)
    assert found["recent"]["median_seconds"] == counts.request_seconds.quantile(0.5)
    assert watched["exits"] == np.bincount(runner.run(x).exit, minlength=3).tolist()
    assert watched["shares"] == bundles.POLICY["shares"]


def test_the_policy_in_force_is_found_among_those_of_the_bundle(written, tmp_path, runner):
    other = {**bundles.POLICY, "thresholds": ["inf", "inf"], "shares": [0, 0, 1], "expected": 4500.0, "budget": 4500.0}
    bundle = bundles.write(tmp_path, policies=[other])
    with started(type(runner)(bundle), token=b"token") as server:
        headers = {"authorization": "Bearer token"}
        found = server.json("GET", PATH, **headers)[1]
        assert [each["fraction"] for each in found["policies"]] == pytest.approx([0.65, 1.0])
        assert (found["policy"]["index"], found["policy"]["version"], found["token"]) == (0, 1, True)
        dearest = found["policies"][1]["policy"]
        assert dearest["thresholds"] == ["inf", "inf"]
        assert server.json("POST", "/v1/models/net/policy", dearest, **headers)[0] == 200  # as the page's command does
        found = server.json("GET", PATH, **headers)[1]["policy"]
        assert (found["index"], found["version"], found["fraction"]) == (1, 2, 1.0)
        server.json("POST", "/v1/models/net/policy", {**dearest, "thresholds": [0.5, "inf"]}, **headers)
        assert server.json("GET", PATH, **headers)[1]["policy"]["index"] is None


def test_the_history_grows_and_is_returned_since_a_time(runner, fast):
    with started(runner) as server:
        kept = server.service.histories["net", "1"]
        until(lambda: len(kept) > 20)
        first = server.json("GET", PATH)[1]["history"]
        assert {len(values) for values in first.values()} == {len(first["time"])}
        assert first["time"] == sorted(first["time"])
        server.json("POST", PREDICT, {"inputs": bundles.inputs(7).tolist()})
        n = len(kept)
        until(lambda: len(kept) > n + 5)
        later = server.json("GET", f"{PATH}?since={first['time'][-1]!r}")[1]["history"]
        assert later["time"][0] > first["time"][-1]
        assert max(later["examples_per_second"]) > 0
        assert sum(median is not None for median in later["median_seconds"]) == 1
        few = server.json("GET", f"{PATH}?points=3")[1]["history"]
        assert len(few["time"]) == 3
        assert sum(few["examples_per_second"]) > 0
        assert server.json("GET", f"{PATH}?since=1e12&points=1")[1]["history"]["time"] == []


def test_rates_of_thinned_points_add_up_to_all_answers(runner):
    with started(runner) as server:
        service = server.service
        kept = service.histories["net", "1"] = history.History()
        for i in range(30):
            recording.add_points(service)
            server.json("POST", PREDICT, {"inputs": bundles.inputs(1 + i % 3).tolist()})
        recording.add_points(service)
        points = kept.points()
        for most in (1, 4, 30, 300):
            found = state.columns(kept, 0.0, most)
            assert len(found["time"]) == min(most, 31)
            chosen = [next(point for point in points if point.time == each) for each in found["time"]]
            previous = [points[0], *chosen]
            seconds = [b.seconds - a.seconds for a, b in zip(previous, chosen, strict=False)]
            examples = sum(rate * each for rate, each in zip(found["examples_per_second"], seconds, strict=True))
            assert examples == pytest.approx(sum(1 + i % 3 for i in range(30)))


def test_an_error_of_the_history_is_logged_and_not_the_end_of_it(runner, fast, monkeypatch, caplog):
    calls = []
    add = recording.add_points

    def fail_once(service):
        calls.append(len(calls))
        if len(calls) == 1:
            raise ArithmeticError("no state")
        add(service)

    monkeypatch.setattr(recording, "add_points", fail_once)
    with started(runner) as server:
        until(lambda: len(server.service.histories["net", "1"]) > 2)
    assert "expected the state of all models for the history" in caplog.text


def test_a_stopped_server_adds_no_points(runner, fast):
    with started(runner) as server:
        until(lambda: len(server.service.histories["net", "1"]) > 1)
    n = len(server.service.histories["net", "1"])
    time.sleep(0.1)
    assert len(server.service.histories["net", "1"]) == n


@pytest.mark.parametrize(
    "query", ["since=x", "since=nan", "since=-1", "since=inf", "points=0", "points=2001", "points=1.5", "points="]
)
def test_wrong_parameters_are_refused(server, query):
    status, document = server.json("GET", f"{PATH}?{query}")
    assert status == 400
    assert "expected" in document["error"]


def test_values_above_all_edges_and_without_requests_are_told_apart(runner):
    with started(runner) as server:
        engine = server.engine()
        kept = server.service.histories["net", "1"] = history.History()
        recording.add_points(server.service)
        point = kept.points()[0]
        slow = point.durations.copy()
        slow[-1] = 5
        kept.add(replace(point, seconds=point.seconds + 10, time=point.time + 10, requests=5, durations=slow))
        kept.add(replace(point, seconds=point.seconds + 20, time=point.time + 20, requests=5, durations=slow))
        found = state.of(server.service, engine, 0.0, 10)["history"]
    assert found["p99_seconds"] == [None, "inf", None]
    assert math.isinf(history.Rates.between(*kept.points()[:2]).p99_seconds)


def test_versions_have_states_of_their_own(runner):
    from suffice_runtime.serving.engine import Engine

    engines = [Engine(runner, name="net", version=version) for version in ("1", "2")]
    with started(engines=engines) as server:
        paths = ["/v1/models/net/versions/1/state", "/v1/models/net/versions/2/state", PATH]
        found = [server.json("GET", path)[1] for path in paths]
        assert [(each["version"], each["latest"]) for each in found] == [("1", False), ("2", True), ("2", True)]
        assert server.json("GET", f"/v1/models/{quote('no such')}/state")[0] == 404


def test_one_of_several_replicas_has_no_state(runner):
    with started(runner, is_replica=True) as server:
        status, document = server.json("GET", PATH)
    assert status == 409
    assert "expected the state of all replicas" in document["error"]
