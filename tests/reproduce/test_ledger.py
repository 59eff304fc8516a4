import json
import os
import subprocess
import sys

import pytest
import torch

from suffice.reproduce import ledger
from suffice.reproduce.ledger import Ledger


def opened(folder, settings=None, data=None, command="suffice reproduce x"):
    return Ledger(folder / "x.json", command, settings or {"rates": (0.1, 0.2)}, data or {"digits": "ab"})


def test_a_run_is_measured_once_and_found_again(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {"r2": 0.5}

    assert opened(tmp_path).run("seed 0", measure) == {"r2": 0.5}
    assert opened(tmp_path).run("seed 0", measure) == {"r2": 0.5}
    assert len(calls) == 1


def test_runs_are_written_one_by_one_with_their_provenance(tmp_path):
    book = opened(tmp_path)
    book.run("seed 0", lambda: {"r2": 0.5})
    with pytest.raises(RuntimeError):
        book.run("seed 1", lambda: (_ for _ in ()).throw(RuntimeError("killed")))
    results = ledger.read(tmp_path / "x.json")
    assert list(results["runs"]) == ["seed 0"]
    assert {"command", "date", "machine", "versions", "seconds", "measured"} == results["runs"]["seed 0"].keys()
    assert results["command"] == "suffice reproduce x"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_each_run_keeps_the_command_that_made_it(tmp_path):
    opened(tmp_path).run("seed 0", dict)
    opened(tmp_path, command="suffice reproduce x --also y").run("y", dict)
    results = ledger.read(tmp_path / "x.json")
    assert ledger.commands(results) == ["suffice reproduce x", "suffice reproduce x --also y"]
    del results["runs"]["seed 0"]["command"]  # as it was written before
    assert ledger.commands(results) == ["suffice reproduce x", "suffice reproduce x --also y"]


def test_two_ledgers_of_one_file_keep_each_others_runs(tmp_path):
    first, second = opened(tmp_path), opened(tmp_path)
    first.run("seed 0", lambda: {"r2": 0.5})
    second.run("seed 1", lambda: {"r2": 0.6})
    assert second.run("seed 0", lambda: pytest.fail("measured again")) == {"r2": 0.5}
    first.run("seed 2", lambda: {"r2": 0.7})
    assert list(ledger.read(tmp_path / "x.json")["runs"]) == ["seed 0", "seed 1", "seed 2"]


def test_the_first_of_two_concurrent_measurements_is_kept(tmp_path):
    def overtaken():
        opened(tmp_path).run("seed 0", lambda: {"r2": 0.5})
        return {"r2": 0.6}

    assert opened(tmp_path).run("seed 0", overtaken) == {"r2": 0.5}


def test_a_run_waits_while_another_process_writes(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from suffice.reproduce.ledger import Ledger\n"
        "book = Ledger(Path(sys.argv[1]), '', {'rates': [0.1, 0.2]}, {'digits': 'ab'})\n"
        "with book._exclusive():\n print('in', flush=True); time.sleep(0.5); book.results['runs']['theirs'] = {}"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path / "x.json"], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        opened(tmp_path).run("ours", dict)
    assert list(ledger.read(tmp_path / "x.json")["runs"]) == ["theirs", "ours"]


def network(seed):
    torch.manual_seed(seed)
    return torch.nn.Linear(2, 2)


MEASURES = {"row": lambda scale: {"r2": scale}, "other row": lambda scale: {"r2": 2 * scale}}


def test_a_network_is_made_only_for_runs_that_are_missing(tmp_path):
    opened(tmp_path).fill("net", MEASURES, lambda: (network(0), 0.5))
    assert ledger.measured(ledger.read(tmp_path / "x.json")) == {"row": {"r2": 0.5}, "other row": {"r2": 1.0}}
    opened(tmp_path).fill("net", MEASURES, lambda: pytest.fail("made again"))
    more = {**MEASURES, "third row": lambda scale: {"r2": 3 * scale}}
    opened(tmp_path).fill("net", more, lambda: (network(0), 0.5))
    assert ledger.measured(ledger.read(tmp_path / "x.json"))["third row"] == {"r2": 1.5}


def test_all_runs_of_a_network_must_have_its_hash(tmp_path):
    opened(tmp_path).fill("net", {"row": dict}, lambda: (network(0), ()))
    before = (tmp_path / "x.json").read_text()
    with pytest.raises(ValueError, match=r"expected the network net .* restore its weights"):
        opened(tmp_path).fill("net", {"row": dict, "other row": dict}, lambda: (network(1), ()))
    assert (tmp_path / "x.json").read_text() == before
    opened(tmp_path).fill("second", {"other row": dict}, lambda: (network(1), ()))
    assert ledger.read(tmp_path / "x.json")["networks"].keys() == {"net", "second"}


def test_runs_without_a_recorded_network_are_accepted(tmp_path):
    opened(tmp_path).run("row", dict)
    opened(tmp_path).fill("net", {"row": dict, "other row": dict}, lambda: (network(0), ()))
    results = ledger.read(tmp_path / "x.json")
    assert list(results["runs"]) == ["row", "other row"]
    assert "networks" not in results


@pytest.mark.parametrize("other", [{"settings": {"rates": [0.1]}}, {"data": {"digits": "cd"}}])
def test_a_file_of_other_settings_or_data_is_refused(tmp_path, other):
    opened(tmp_path).run("seed 0", dict)
    with pytest.raises(ValueError, match=f"to have the {next(iter(other))}"):
        opened(tmp_path, **other)


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": {}}'])
def test_a_file_with_other_content_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="expected results written by"):
        opened(tmp_path)


def test_results_are_plain_json(tmp_path):
    opened(tmp_path).run("seed 0", lambda: {"r2": 0.5})
    assert json.loads((tmp_path / "x.json").read_text())["settings"] == {"rates": [0.1, 0.2]}
    assert ledger.measured(ledger.read(tmp_path / "x.json")) == {"seed 0": {"r2": 0.5}}


def test_a_run_that_could_not_be_written_counts_as_missing(tmp_path, monkeypatch):
    book = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="expected more space on the disk of"):
            book.run("seed 0", lambda: {"r2": 0.5})
    assert list(tmp_path.iterdir()) == []
    assert book.run("seed 0", lambda: {"r2": 0.6}) == {"r2": 0.6}
    assert ledger.measured(ledger.read(tmp_path / "x.json")) == {"seed 0": {"r2": 0.6}}


def test_a_fifo_is_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"written by `suffice reproduce`, got .*: expected a file, got a FIFO at"):
        opened(tmp_path)


def test_a_broken_link_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "x.json").symlink_to(tmp_path / "unmounted" / "x.json")
    with pytest.raises(FileNotFoundError):
        opened(tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"runs":' * 100_000, '{"command": 1, "settings": [], "data": {}, "runs": {}}']
)
def test_a_file_that_is_nested_or_of_other_types_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="expected results written by"):
        opened(tmp_path)
