import json

import pytest

from suffice.reproduce import ledger
from suffice.reproduce.ledger import Ledger


def opened(folder, settings=None, data=None):
    return Ledger(folder / "x.json", "suffice reproduce x", settings or {"rates": (0.1, 0.2)}, data or {"digits": "ab"})


def test_a_run_is_measured_once_and_found_again(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {"r2": 0.5}

    assert opened(tmp_path).run("seed 0", measure) == {"r2": 0.5}
    assert opened(tmp_path).run("seed 0", measure) == {"r2": 0.5}
    assert len(calls) == 1


def test_runs_are_written_one_by_one_with_their_circumstances(tmp_path):
    book = opened(tmp_path)
    book.run("seed 0", lambda: {"r2": 0.5})
    with pytest.raises(RuntimeError):
        book.run("seed 1", lambda: (_ for _ in ()).throw(RuntimeError("killed")))
    results = ledger.read(tmp_path / "x.json")
    assert list(results["runs"]) == ["seed 0"]
    assert {"date", "machine", "versions", "seconds", "measured"} == results["runs"]["seed 0"].keys()
    assert results["command"] == "suffice reproduce x"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("other", [{"settings": {"rates": [0.1]}}, {"data": {"digits": "cd"}}])
def test_a_file_of_other_settings_or_data_is_refused(tmp_path, other):
    opened(tmp_path).run("seed 0", dict)
    with pytest.raises(ValueError, match=f"to be of {next(iter(other))}"):
        opened(tmp_path, **other)


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": {}}'])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="expected results written by"):
        opened(tmp_path)


def test_results_are_plain_json(tmp_path):
    opened(tmp_path).run("seed 0", lambda: {"r2": 0.5})
    assert json.loads((tmp_path / "x.json").read_text())["settings"] == {"rates": [0.1, 0.2]}
    assert ledger.measured(ledger.read(tmp_path / "x.json")) == {"seed 0": {"r2": 0.5}}
