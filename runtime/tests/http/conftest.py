"""Servers that tests share."""

from dataclasses import replace
from importlib.util import find_spec
from threading import Event

import pytest

import bundles
from suffice_runtime import Runner

needed = ("fastapi", "prometheus_client", "uvicorn")
if not all(map(find_spec, needed)):
    collect_ignore_glob = ["test_*.py"]  # those of the codec, in the folder below, need NumPy alone


@pytest.fixture(scope="session")
def server(runner):
    """Return a server of one bundle, for tests that leave it as it is."""
    from http_server import started

    with started(runner) as found:
        yield found


class Held:
    """Graph that runs only after an event, and notes that it is to run."""

    def __init__(self, graph, began, go_on):
        self.graph, self.began, self.go_on = graph, began, go_on

    def __call__(self, arrays):
        if any(array.any() for array in arrays):  # an engine begins with runs on zeros
            self.began.set()
            assert self.go_on.wait(20)
        return self.graph(arrays)


@pytest.fixture
def held(written):
    """Return a runner whose first graph waits for an event, the event that it began, and this one."""
    runner, began, go_on = Runner(written()), Event(), Event()
    first, *others = runner._network.graphs
    runner._network = replace(runner._network, graphs=[Held(first, began, go_on), *others])
    yield runner, began, go_on
    go_on.set()


@pytest.fixture(scope="session")
def x():
    return bundles.inputs(9)


def inference(x, name="input", **more):
    """Return the document of an inference request."""
    return {"inputs": [{"name": name, "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}], **more}


@pytest.fixture(scope="session")
def infer():
    return inference
