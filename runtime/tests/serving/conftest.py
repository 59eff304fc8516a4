import pytest

from suffice_runtime.serving.engine import Engine


@pytest.fixture
def started():
    """Return a function that starts an engine, which is closed after the test."""
    engines = []

    def start(runner, options=None, **terms):
        engines.append(Engine(runner, options, **terms))
        return engines[-1]

    yield start
    for engine in engines:
        assert engine.close(10)
