"""Give every test its own store."""

import pytest


@pytest.fixture(autouse=True)
def store_folder(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    monkeypatch.setenv("SUFFICE_DATA", str(folder))
    return folder
