"""Bundles that tests read, each written once."""

import shutil

import pytest

import bundles
from suffice_runtime import Runner


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Return a function that writes a bundle, or returns the folder of an equal one; do not change it."""
    known = {}

    def write(kind="classification", tokens=False, **policy):
        key = (kind, tokens, repr(policy))
        if key not in known:
            rule = {**bundles.POLICY, **policy}
            known[key] = bundles.write(tmp_path_factory.mktemp("bundle"), kind, tokens, rule)
        return known[key]

    return write


@pytest.fixture(scope="session")
def opened(written):
    """Return a function like `written` that opens the bundle."""
    return lambda *args, **policy: Runner(written(*args, **policy))


@pytest.fixture(scope="session")
def runner(opened):
    return opened()


@pytest.fixture
def copied(written, tmp_path):
    """Return the folder of a bundle that may be changed."""
    return shutil.copytree(written(), tmp_path / "bundle")
