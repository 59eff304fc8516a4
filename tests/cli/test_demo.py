import json

import pytest
from typer.testing import CliRunner

from suffice.cli import app, main
from suffice.demo import program, subjects
from tests.report.results import RESULTS


@pytest.fixture
def quick(monkeypatch):
    """Command-line runner with a demo that returns fixed results at once."""

    def run(subject, seed, out, progress):
        assert subject == "digits of seed 0"
        progress("train", 1, 1)
        return dict(RESULTS)

    monkeypatch.setitem(subjects.SUBJECTS, "digits", lambda seed, progress: f"digits of seed {seed}")
    monkeypatch.setattr(program, "run", run)
    return CliRunner(env={"COLUMNS": "80", "TERM": "dumb"})


def test_the_demo_prints_its_tables_within_80_columns_and_writes_its_files(quick, tmp_path):
    result = quick.invoke(app, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    for text in ("About.", "Ablation, averaged over budgets", "Dropout variation", "Closing.", "something to note"):
        assert text in result.stdout
    assert "…" not in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", "results.json"}


def test_json_is_all_that_goes_to_standard_output(quick, tmp_path):
    result = quick.invoke(app, ["demo", "--json", "--out", str(tmp_path)])
    assert json.loads(result.stdout) == json.loads((tmp_path / "results.json").read_text())


def test_help_shows_an_example():
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["demo", "--help"])
    assert result.exit_code == 0
    assert "suffice demo --seed 1" in result.output


def test_an_unknown_option_is_bad_usage():
    assert CliRunner().invoke(app, ["demo", "--sede", "1"]).exit_code == 2


def test_a_failure_is_one_line_and_status_1(monkeypatch, capsys, tmp_path):
    def fail(*_):
        raise ValueError("expected this, got that")

    monkeypatch.setitem(subjects.SUBJECTS, "digits", fail)
    monkeypatch.setattr("sys.argv", ["suffice", "demo", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert capsys.readouterr().err.strip().endswith("suffice: expected this, got that")


def test_without_the_packages_of_the_report_it_says_so_before_any_work(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "run", lambda *_: pytest.fail("worked"))
    monkeypatch.setattr("suffice.report.page.find_spec", lambda name: None)
    result = quick.invoke(app, ["demo", "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, ImportError)
    assert "expected plotly and jinja2 for the report" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_the_demo_replaces_what_it_wrote_and_nothing_else_and_says_so_before_any_work(quick, tmp_path, monkeypatch):
    for _ in range(2):
        assert quick.invoke(app, ["demo", "--out", str(tmp_path)]).exit_code == 0
    monkeypatch.setattr(program, "run", lambda *_: pytest.fail("worked"))
    for name in ("results.json", "report.html"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).write_text("mine")
        result = quick.invoke(app, ["demo", "--out", str(tmp_path)])
        assert f"{name}, which suffice did not write; choose another path" in str(result.exception)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).write_bytes(kept)
