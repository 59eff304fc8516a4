"""Policies that are replaced while requests run."""

import json
import threading

import numpy as np
import pytest

pytest.importorskip("uvicorn")

import bundles
from http_server import SECONDS, read_response, started, written
from suffice_runtime import Runner
from suffice_runtime.http.routes import infer as infer_route
from suffice_runtime.http.routes import policies

TOKEN = b"token"
HEADERS = {"authorization": "Bearer token"}
PATH = "/v1/models/net/policy"
FIRST = {**bundles.POLICY, "thresholds": ["-inf", "-inf"], "shares": [1.0, 0.0, 0.0]}
PROMISED = {**bundles.POLICY, "budget": None, "promise": {"loss": "brier", "max_loss": 0.1, "confidence": 0.9}}
LAST = {**bundles.POLICY, "thresholds": ["inf", "inf"], "shares": [0.0, 0.0, 1.0]}


@pytest.fixture
def guarded(runner):
    with started(runner, token=TOKEN) as found:
        yield found


def exits(server, infer, n=4):
    status, found = server.json("POST", "/v2/models/net/infer", infer(bundles.inputs(n)), **HEADERS)
    assert status == 200
    by_name = {output["name"]: output["data"] for output in found["outputs"]}
    return by_name["exit"], found["parameters"]["policy_version"]


def test_a_budget_takes_the_dearest_policy_within_it(tmp_path, infer):
    runner, x = Runner(bundles.write(tmp_path / "bundle", policies=[FIRST, LAST])), bundles.inputs(6)
    own = bundles.exits(x).tolist()
    with started(runner) as server:
        for budget, expected in ((0.23, [0] * 6), (0.7, own), (1.0, [2] * 6)):
            status, found = server.json("POST", "/v2/models/net/infer", infer(x, parameters={"budget": budget}))
            assert (status, found["outputs"][0]["data"]) == (200, expected)
            assert "policy_version" not in found["parameters"]
        status, found = server.json("POST", "/v2/models/net/infer", infer(x, parameters={"budget": 0.22}))
        assert (status, "expected a budget of at least 0.2222" in found["error"]) == (400, True)


def test_outputs_are_those_of_the_policy_of_the_request(tmp_path, infer):
    rule = {**FIRST, "sets": bundles.SETS}
    runner = Runner(bundles.write(tmp_path / "bundle", policies=[rule]))
    with started(runner) as server:
        named = [
            [output["name"] for output in server.json("POST", "/v2/models/net/infer", document)[1]["outputs"]]
            for document in (infer(bundles.inputs(2)), infer(bundles.inputs(2), parameters={"budget": 0.3}))
        ]
    assert ["set" in names for names in named] == [False, True]


def test_a_policy_is_replaced_and_comes_back_as_it_was_sent(guarded, infer):
    status, before = guarded.json("GET", PATH, **HEADERS)
    assert (status, before["version"]) == (200, 1)
    status, after = guarded.json("POST", PATH, FIRST, **HEADERS)
    assert (status, after["version"]) == (200, 2)
    assert exits(guarded, infer) == ([0] * 4, 2)
    status, again = guarded.json("POST", PATH, before["policy"], **HEADERS)
    assert (status, again) == (200, {"version": 3, "policy": before["policy"]})


@pytest.mark.parametrize(
    "entries",
    [bundles.POLICY, bundles.MIXED, {**bundles.POLICY, "sets": bundles.SETS}, PROMISED],
)
def test_all_policies_of_a_manifest_can_be_sent_and_read(runner, entries):
    found = policies.read(entries, runner.manifest)
    assert policies.entries_of(found) == {**entries, "made_for": None}
    assert policies.entries_of(policies.read(policies.entries_of(found), runner.manifest)) == policies.entries_of(found)


WRONG = {
    "no policy": ({}, "expected an entry 'promise' in the policy, found none; send the entry policy of a manifest"),
    "another score": ({**bundles.POLICY, "score": "margin"}, "expected a policy of the score 'confidence'"),
    "another network": ({**bundles.POLICY, "made_for": "3" * 64}, "expected a policy made for this network"),
    "made for a number": ({**bundles.POLICY, "made_for": 3}, "expected made_for as the hash"),
    "another number of exits": (
        {**bundles.POLICY, "thresholds": [0.0]},
        "as a list of 2 in the policy, got a list of 1; send",
    ),
    "with its version": ({"version": 1, "policy": bundles.POLICY}, "found none; send the entry policy of a manifest"),
    "not a number": ({**bundles.POLICY, "thresholds": ["nan", 0]}, "expected thresholds as numbers"),
    "sets of another kind": (
        {**bundles.POLICY, "sets": {**bundles.SETS, "method": "interval", "randomized": False}},
        "expected sets.method as one for a classification",
    ),
    "shares": ({**bundles.POLICY, "shares": [0.5, 0.5, 0.5]}, "expected shares"),
}


@pytest.mark.parametrize(("entries", "message"), WRONG.values(), ids=WRONG)
def test_a_policy_of_something_else_is_refused_and_changes_nothing(guarded, entries, message):
    status, found = guarded.json("POST", PATH, entries, **HEADERS)
    assert status == 400
    assert message in found["error"]
    assert guarded.json("GET", PATH, **HEADERS)[1]["version"] == 1


def test_without_a_token_nothing_is_replaced(server, guarded):
    status, found = server.json("POST", PATH, FIRST)
    assert (status, "expected a server with a token" in found["error"]) == (403, True)
    assert guarded.json("POST", PATH, FIRST)[0] == 401


def test_no_request_is_lost_while_policies_are_replaced(guarded, infer):
    body, done, seen = json.dumps(infer(bundles.inputs(5))).encode(), threading.Event(), []

    def load():
        with guarded.connect() as opened:
            while not done.is_set():
                opened.sendall(written("POST", "/v2/models/net/infer", body, **HEADERS))
                status, _, payload = read_response(opened)
                found = {output["name"]: output["data"] for output in json.loads(payload)["outputs"]}
                seen.append((status, tuple(found["exit"])))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(40):
        status, found = guarded.json("POST", PATH, (FIRST, LAST)[i % 2], **HEADERS)
        assert (status, found["version"]) == (200, i + 2)
    done.set()
    for thread in threads:
        thread.join(SECONDS)
    own = tuple(np.asarray(bundles.exits(bundles.inputs(5))).tolist())
    assert {status for status, _ in seen} == {200}
    assert {found for _, found in seen} <= {own, (0,) * 5, (2,) * 5}  # each under one policy as a whole
    assert len(seen) > 3
    assert exits(guarded, infer, 5) == ([2] * 5, 41)


@pytest.mark.parametrize("then", [{**FIRST, "sets": bundles.SETS}, FIRST])
def test_outputs_are_those_of_the_policy_that_a_request_came_under(guarded, infer, monkeypatch, then):
    engine = guarded.engine()
    other = FIRST if then["sets"] else {**FIRST, "sets": bundles.SETS}
    engine.policy = policies.read(other, engine.manifest)
    find = infer_route.texts.to_arrays

    async def replaced(engine, x):  # another request does it between the reading of a request and its acceptance
        engine.policy = policies.read(then, engine.manifest)
        return await find(engine, x)

    monkeypatch.setattr(infer_route.texts, "to_arrays", replaced)
    status, found = guarded.json("POST", "/v2/models/net/infer", infer(bundles.inputs(4)), **HEADERS)
    assert status == 200
    assert ("set" in [output["name"] for output in found["outputs"]]) == (then["sets"] is not None)
