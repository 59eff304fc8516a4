import json

import pytest
from typer.testing import CliRunner

from suffice.cli import app
from suffice.reproduce import catalogue
from suffice.reproduce.ledger import Ledger

runner = CliRunner()


def test_without_a_name_everything_is_listed_with_its_state(tmp_path):
    for name, runs in (("criteo", catalogue.find("criteo").keys), ("emnist", ["p = 0.1; seed 0"])):
        for key in runs:
            Ledger(tmp_path / f"{name}.json", "", {}, {}).run(key, dict)
    result = runner.invoke(app, ["reproduce", "--out", str(tmp_path), "--json"])
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert rows.keys() == catalogue.EXPERIMENTS.keys()
    assert rows["movielens"]["state"] == "not run"
    assert (rows["emnist"]["state"], rows["emnist"]["because"]) == ("partial", "1 of 12 runs")
    assert rows["criteo"]["state"] == "reduced"
    assert "of 45,840,617 rows" in rows["criteo"]["because"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nothing"], "expected one of movielens"), (["criteo", "--epochs", "3"], "expected no options with criteo")],
)
def test_what_cannot_be_asked_for_is_refused(tmp_path, arguments, message):
    result = runner.invoke(app, ["reproduce", *arguments, "--out", str(tmp_path)])
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_data_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SUFFICE_DATA", str(tmp_path / "store"))
    result = runner.invoke(app, ["reproduce", "movielens", "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, FileNotFoundError)
    assert "movielens-1m" in str(result.exception)
    assert not (tmp_path / "out").exists()
