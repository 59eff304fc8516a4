"""A server under twice the load that it can answer: answers are right, refusals are clean, and memory does not grow.

SUFFICE_SOAK_SECONDS sets the time of a run; 20 by default, which is enough for answers and refusals. Five minutes show
the memory.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn")

import bundles
from http_server import SECONDS as PATIENCE
from suffice_runtime import Runner
from suffice_runtime.http.entries import entries_of

SECONDS = float(os.environ.get("SUFFICE_SOAK_SECONDS", "20"))
CONNECTIONS, OVERLOAD = 64, 2.0
TOKEN = "secret"
GROWTH = 8 << 20
"""Bytes by which memory may grow between the second and the last quarter of a run: an allocator's arenas."""

pytestmark = pytest.mark.slow


@dataclass
class Case:
    """Body of a request, and the labels and exits that are right: one pair for each policy."""

    body: bytes
    answers: list


@dataclass
class Tally:
    """What clients saw."""

    statuses: Counter = field(default_factory=Counter)
    wrong: list = field(default_factory=list)
    unclean: list = field(default_factory=list)


@contextmanager
def process(bundle, folder):
    """Yield a server's process, its port, and the file of its log."""
    (folder / "token").write_text(TOKEN)
    log = folder / "log"
    command = [sys.executable, "-m", "suffice_runtime", "serve", bundle, "--name", "net", "--port", "0"]
    command += ["--token-file", folder / "token", "--max-rows", "128", "--max-requests", "32", "--audit-share", "0.1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with log.open("w") as stream, subprocess.Popen(list(map(str, command)), env=environment, stderr=stream) as found:
        try:
            end = time.monotonic() + PATIENCE
            while not any(entry["message"] == "served" for entry in entries(log)):
                assert found.poll() is None, log.read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
            yield found, next(entry["port"] for entry in entries(log) if entry["message"] == "served"), log
        finally:
            found.kill()


def entries(log):
    return [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]


def cases(runner, policies, count=50):
    made = []
    for seed in range(count):
        x = bundles.inputs(1 + seed % 8, seed=seed)
        answers = [runner.run(x, policy) for policy in policies]
        body = json.dumps({"inputs": x.tolist()}).encode()
        made.append(Case(body, [(answer.label.tolist(), answer.exit.tolist()) for answer in answers]))
    return made


@asynccontextmanager
async def opened(port, count=1):
    """Yield open connections."""
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    try:
        yield connections
    finally:
        for _, writer in connections:
            writer.close()
            await writer.wait_closed()


async def post(connection, path, body):
    """Return status, headers and document of the response to a request on an open connection."""
    reader, writer = connection
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    payload = await reader.readexactly(int(headers["content-length"]))
    return int(first.split(" ")[1]), headers, json.loads(payload)


async def ask(connection, case, tally):
    status, headers, found = await post(connection, "/v1/models/net/predict", case.body)
    tally.statuses[status] += 1
    if status == 200:
        got = [record["label"] for record in found], [record["exit"] for record in found]
        if got not in case.answers:
            tally.wrong.append((got, case.answers))
    elif status not in (429, 503) or "retry-after" not in headers or "expected" not in found["error"]:
        tally.unclean.append((status, headers, found))


async def closed_loop(port, made, seconds):
    """Return the requests per second that the server answers to a few clients."""
    tally, end = Tally(), time.monotonic() + seconds

    async def client():
        async with opened(port) as (connection,):
            while time.monotonic() < end:
                await ask(connection, random.choice(made), tally)

    await asyncio.gather(*(client() for _ in range(8)))
    assert not tally.wrong
    return tally.statuses[200] / seconds


async def open_loop(port, made, rate, seconds, tally):
    """Send requests at random times, whether those before are answered or not, on as many connections as it takes."""
    free, tasks = asyncio.Queue(), set()
    generator, start, due = random.Random(0), time.monotonic(), 0.0

    async def one(case):
        connection = await free.get()
        await ask(connection, case, tally)
        free.put_nowait(connection)

    async with opened(port, CONNECTIONS) as connections:
        for connection in connections:
            free.put_nowait(connection)
        while due < seconds:
            due += generator.expovariate(rate)
            await asyncio.sleep(max(0.0, start + due - time.monotonic()))
            if len(tasks) < 4 * CONNECTIONS:  # a client that is behind gives up, so that its own memory is bounded
                task = asyncio.create_task(one(generator.choice(made)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)


async def swap(port, policies, seconds):
    """Put one policy after the other in force."""
    bodies = [json.dumps(entries_of(policy)).encode() for policy in policies]
    async with opened(port) as (connection,):
        for i in range(10):
            await asyncio.sleep(seconds / 11)
            status, _, found = await post(connection, "/v1/models/net/policy", bodies[(i + 1) % 2])
            assert status == 200, found


async def watch_memory(pid, seconds):
    """Return the resident bytes of a process, once a second."""
    sizes = []
    for _ in range(int(seconds)):
        await asyncio.sleep(1)
        sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    return sizes


def test_an_overloaded_server_answers_right_or_refuses_and_keeps_its_memory(written, tmp_path):
    bundle = written()
    runner = Runner(bundle)
    later = replace(runner.policy, thresholds=np.full(2, np.inf), shares=np.array([0.0, 0.0, 1.0]))
    policies = [runner.policy, later]
    made, tally = cases(runner, policies), Tally()

    async def run(port, pid):
        rate = OVERLOAD * await closed_loop(port, made, 3.0)
        load = open_loop(port, made, rate, SECONDS, tally)
        _, _, sizes = await asyncio.gather(load, swap(port, policies, SECONDS), watch_memory(pid, SECONDS))
        return sizes

    with process(bundle, tmp_path) as (server, port, log):
        sizes = asyncio.run(run(port, server.pid))
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0
        logged = Counter(entry["status"] for entry in entries(log) if entry.get("path") == "/v1/models/net/predict")
    assert tally.wrong == []
    assert tally.unclean == []
    assert tally.statuses[200] > 0
    assert tally.statuses[429] + tally.statuses[503] > 0
    assert all(logged[status] >= count for status, count in tally.statuses.items())
    quarter = len(sizes) // 4
    assert np.median(sizes[-quarter:]) - np.median(sizes[quarter : 2 * quarter]) < GROWTH
