import json

import pytest
from typer.testing import CliRunner

from suffice.cli import app
from suffice.reproduce import catalog
from suffice.reproduce.ledger import Ledger

runner = CliRunner(env={"COLUMNS": "80", "TERM": "dumb"})


def test_without_a_name_everything_is_listed_with_its_state(tmp_path):
    for name, runs in (("criteo", catalog.find("criteo").keys), ("emnist", ["p = 0.1; seed 0"])):
        for key in runs:
            Ledger(tmp_path / f"{name}.json", "", {}, {}).run(key, dict)
    result = runner.invoke(app, ["reproduce", "--out", str(tmp_path), "--json"])
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert rows.keys() == catalog.EXPERIMENTS.keys()
    assert rows["movielens"]["state"] == "not run"
    assert (rows["emnist"]["state"], rows["emnist"]["because"]) == ("partial", "1 of 12 runs")
    assert rows["criteo"]["state"] == "reduced"
    assert "of 45,840,617 rows" in rows["criteo"]["because"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "expected one of movielens"),
        (["criteo", "--epochs", "3"], "which has fixed settings, got epochs=3"),
        (["cifar100-msdnet-small", "--epochs", "0"], "'--epochs'"),
        (["cifar100-msdnet-small", "--validation", "-1"], "'--validation'"),
        (["cifar100-msdnet-small", "--also", "sharpened"], "losses among smoothed, distilled, got sharpened"),
        (["criteo", "--threads", "0"], "'--threads'"),
        (["--epochs", "3"], "expected the name of an experiment"),
        (["--raw", "folder"], "expected the name of an experiment"),
        (["--threads", "1"], "expected the name of an experiment"),
    ],
)
def test_invalid_options_are_bad_usage_before_anything_is_imported(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr("suffice.data.import_set", lambda *_, **__: pytest.fail("imported"))
    monkeypatch.setenv("SUFFICE_DATA", str(tmp_path / "store"))
    raw = [] if arguments[0].startswith("-") else ["--raw", str(tmp_path)]
    result = runner.invoke(app, ["reproduce", *arguments, *raw, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", "").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "plan"), [([], "300 epochs; --epochs sets fewer."), (["--epochs", "20"], "20 epochs.")]
)
def test_a_long_training_is_announced(tmp_path, monkeypatch, options, plan):
    monkeypatch.setenv("SUFFICE_DATA", str(tmp_path / "store"))
    arguments = ["reproduce", "cifar100-msdnet-small", *options, "--out", str(tmp_path)]
    assert f"Missing weights will be trained: {plan}\n" in runner.invoke(app, arguments).stderr
    book = Ledger(tmp_path / "cifar100-msdnet-small.json", "", {}, {})
    for key in catalog.find("cifar100-msdnet-small").keys:
        book.run(key, dict)
    assert "trained" not in runner.invoke(app, arguments).stderr
    assert "trained" in runner.invoke(app, [*arguments, "--also", "smoothed"]).stderr


def test_missing_data_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SUFFICE_DATA", str(tmp_path / "store"))
    result = runner.invoke(app, ["reproduce", "movielens", "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, FileNotFoundError)
    assert "movielens-1m" in str(result.exception)
    assert not (tmp_path / "out").exists()
