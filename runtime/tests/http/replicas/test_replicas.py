"""Two replicas behind Ray's proxy: answers, a token, metrics, a replica that is killed, and policies for all."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter

import pytest

import bundles

pytestmark = pytest.mark.slow

SECONDS = 300
ROWS = bundles.inputs(64)
EXITS = bundles.exits(ROWS).tolist()
PREDICT = "/v1/models/net/predict"
POLICY = "/v1/models/net/policy"
FIRST = {**bundles.POLICY, "thresholds": ["-inf", "-inf"], "shares": [1.0, 0.0, 0.0]}
LAST = {**bundles.POLICY, "thresholds": ["inf", "inf"], "shares": [0.0, 0.0, 1.0]}


class Load:
    """Clients that send one example after another until they are stopped.

    Attributes:
        statuses: Number of responses by status; "none" for connections without one.
        wrong: Answers that are not right.
        replicas: Number of answers of each replica.
    """

    def __init__(self, proxy, right, clients=4):
        self.proxy, self.right, self.going = proxy, right, True
        self.statuses, self.replicas, self.wrong = Counter(), Counter(), []
        self.threads = [threading.Thread(target=self.send, args=(i,)) for i in range(clients)]

    def send(self, i):
        while self.going:
            i = (i + 1) % len(ROWS)
            try:
                status, replica, found = self.proxy.send(PREDICT, {"inputs": ROWS[i : i + 1].tolist()})
            except (OSError, ValueError) as error:  # closed without a response, or in the middle of one
                status, replica, found = "none", None, error
            self.statuses[status] += 1
            if status == 200:
                self.replicas[replica] += 1
                if not self.right(i, found[0]["exit"]):
                    self.wrong.append((i, found))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.going = False
        for thread in self.threads:
            thread.join(SECONDS)
            assert not thread.is_alive()

    def until(self, condition):
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end, (self.statuses, self.replicas)
            time.sleep(0.05)


def test_replicas_give_the_answers_of_a_server(proxy):
    for start in range(0, 64, 16):
        status, _, found = proxy.send(PREDICT, {"inputs": ROWS[start : start + 16].tolist()})
        assert status == 200
        assert [row["exit"] for row in found] == EXITS[start : start + 16]
    assert len(proxy.replicas()) == 2


def test_every_replica_needs_the_token(proxy):
    for _ in range(8):
        assert proxy.send(PREDICT, {"inputs": ROWS[:1].tolist()}, token=False)[0] == 401
    assert proxy.send("/v2/health/ready", token=False)[0] == 200


def test_what_would_reach_one_replica_only_is_refused(proxy):
    for path, document in ((POLICY, FIRST), ("/metrics", None)):
        status, _, found = proxy.send(path, document)
        assert status == 409
        assert "got a request that reaches one of them" in json.loads(found)["error"]
    assert {proxy.send(POLICY)[2]["version"] for _ in range(8)} == {1}


def test_metrics_of_all_replicas_are_among_those_of_ray(proxy):
    replicas, sent = proxy.replicas(), Counter()
    for _ in range(30):
        sent[proxy.send(PREDICT, {"inputs": ROWS[:1].tolist()})[1]] += 1
    end = time.monotonic() + SECONDS
    while (found := answered(proxy)).keys() < replicas or any(found[each] < sent[each] for each in sent):
        assert time.monotonic() < end, (found, sent)
        time.sleep(1)


def answered(proxy):
    """Return the number of requests that each replica answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{proxy.metrics}/metrics", timeout=SECONDS) as response:
        lines = response.read().decode().splitlines()
    found = Counter()
    for line in lines:
        if line.startswith("ray_suffice_requests_total{") and 'outcome="answered"' in line:
            found[line.partition('replica="')[2].partition('"')[0]] += float(line.rpartition(" ")[2])
    return found


def test_a_replica_that_is_killed_under_load_is_replaced_and_no_answer_is_wrong(proxy):
    killed, other = sorted(proxy.replicas())
    with Load(proxy, lambda i, exit: exit == EXITS[i]) as load:
        load.until(lambda: load.replicas[killed] > 20 and load.replicas[other] > 20)
        proxy.run("kill", killed)
        load.until(lambda: set(load.replicas) - {killed, other})
        (new,) = set(load.replicas) - {killed, other}
        before = load.replicas[killed]
        load.until(lambda: load.replicas[new] > 20 and load.replicas[other] > 20)
    assert load.wrong == []
    assert load.replicas[killed] == before
    assert set(load.statuses) <= {200, 500, 503, "none"}, load.statuses
    assert load.statuses[200] > 0.9 * load.statuses.total(), load.statuses
    assert proxy.replicas() == {new, other}


def exits(proxy, count=16):
    """Return the exits of answers and the replicas that gave them."""
    found = [proxy.send(PREDICT, {"inputs": ROWS[:count].tolist()}) for _ in range(count)]
    assert {status for status, _, _ in found} == {200}
    return {row["exit"] for _, _, rows in found for row in rows}, {replica for _, replica, _ in found}


def test_a_policy_of_the_configuration_reaches_all_replicas_without_a_restart(proxy):
    before = proxy.replicas()
    with Load(proxy, lambda i, exit: exit in (0, EXITS[i])) as load:
        configuration = {"policies": {"net/1": FIRST}}
        proxy.run("deploy", [proxy.options, {"num_replicas": 2, "user_config": configuration}])
    assert load.wrong == []
    assert set(load.statuses) == {200}
    assert exits(proxy) == ({0}, before)
    assert {proxy.send(POLICY)[2]["version"] for _ in range(8)} == {2}


def test_a_policy_of_the_options_reaches_all_replicas_which_are_new_and_no_request_is_lost(proxy, tmp_path):
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(LAST))
    before = proxy.replicas()
    with Load(proxy, lambda i, exit: exit in (0, 2)) as load:
        proxy.run("deploy", [{**proxy.options, "policy": file}, {"num_replicas": 2}])
        load.until(lambda: len(set(load.replicas) - before) == 2)
    assert load.wrong == []
    assert set(load.statuses) == {200}
    found, after = exits(proxy)
    assert (found, after & before) == ({2}, set())


def test_the_command_serves_until_a_signal_ends_it(written, port):
    line = [sys.executable, "-m", "suffice_runtime", "serve", written(), "--name", "net", "--ray", "--port", port]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_raylet_start_wait_time_s": "300"}
    with subprocess.Popen(list(map(str, line)), stderr=subprocess.PIPE, env=environment, text=True) as process:
        lines = []
        while not lines or '"message": "served"' not in lines[-1]:
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/net/ready", timeout=SECONDS) as response:
            assert json.load(response) == {"name": "net", "ready": True}
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(SECONDS) == 0
    assert '"message": "ended"' in rest


def test_replicas_that_the_machine_has_no_room_for_are_refused(written, port):
    line = [sys.executable, "-m", "suffice_runtime", "serve", written(), "--ray", "--replicas", 9999, "--port", port]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_raylet_start_wait_time_s": "300"}
    done = subprocess.run(list(map(str, line)), capture_output=True, env=environment, text=True, check=False)
    assert done.returncode == 1
    assert f"error: expected at most {os.cpu_count()} CPUs for 9999 replicas, got 9999" in done.stderr
