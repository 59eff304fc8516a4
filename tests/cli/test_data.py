import json

import pytest
from typer.testing import CliRunner

from suffice.cli import app, main
from suffice.data import import_set
from suffice.utils.text import printable
from tests.data import miniatures


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("SUFFICE_DATA", str(tmp_path / "store"))
    runner = CliRunner(env={"COLUMNS": "80", "TERM": "dumb"})
    return lambda *arguments: runner.invoke(app, ["data", *map(str, arguments)])


def pets(tmp_path):
    return miniatures.image_folder(tmp_path / "pets")


def criteo(tmp_path, spoilt=False):
    lines, _ = miniatures.criteo_lines(20)
    file = tmp_path / "train.txt"
    file.write_text("".join(lines) + ("1\t2\n" if spoilt else ""))
    return file


def test_the_list_names_every_set_with_state_and_licence_within_80_columns(run, tmp_path):
    run("import", "criteo", criteo(tmp_path))
    run("import", "pets", pets(tmp_path))
    result = run("list")
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.stdout.splitlines()[:-1]) <= 80
    assert "…" not in result.stdout
    states = {line.split()[0]: line for line in result.stdout.splitlines() if line[1:2].strip()}
    assert "here" in states["criteo"]
    assert "not here" not in states["criteo"]
    assert "not here" in states["cifar100"]
    assert "here" in states["pets"]


def test_the_list_as_json_has_size_licence_and_state_and_checks_hashes_with_an_option(run, tmp_path):
    stored = json.loads(run("import", "criteo", criteo(tmp_path), "--json").stdout)
    file = tmp_path / "store" / "criteo" / "rows.parquet"
    data = file.read_bytes()
    file.write_bytes(data[:-9] + b"x" + data[-8:])
    for options, state in (([], "here"), (["--check"], "damaged")):
        rows = {row["name"]: row for row in json.loads(run("list", "--json", *options).stdout)}
        assert rows["criteo"]["state"] == state
        assert rows["criteo"]["bytes"] == stored["bytes"] == len(data)
        assert "non-commercial" in rows["criteo"]["licence"]
        assert rows["cifar100"]["state"] == "not here"
    file.write_bytes(data[:100])
    result = run("list")
    assert "damaged" in result.stdout
    assert "import criteo again" in " ".join(result.stdout.split())


def test_an_import_reports_counts_checksums_and_faults(run, tmp_path):
    result = run("import", "criteo", criteo(tmp_path, spoilt=True), "--bad", "skip")
    text = " ".join(result.stdout.split())
    assert result.exit_code == 0, result.output
    assert "criteo: 20 in all" in text
    assert "train.txt has the checksum sha256:" in text
    assert "recorded, not verified" in text
    assert "Skipped 1 malformed" in text
    assert "line 21" in text


def test_a_table_is_shown_by_a_few_rows_and_images_by_a_contact_sheet(run, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    run("import", "criteo", criteo(tmp_path))
    shown = json.loads(run("show", "criteo", "--rows", 3, "--json").stdout)
    assert len(shown["rows"]["C26"]) == 3
    result = run("show", "criteo")
    assert max(len(line) for line in result.stdout.splitlines() if "store" not in line) <= 80
    run("import", "pets", pets(tmp_path))
    result = run("show", "pets", "--rows", 2)
    assert "sheet: pets.png" in result.stdout
    with Image.open(tmp_path / "pets.png") as sheet:
        assert sheet.size == (960, 96)
    with monkeypatch.context() as patch:
        patch.setenv("SUFFICE_DATA", str(tmp_path / "store"))
        archive, _ = miniatures.emnist(tmp_path / "gzip.zip", "digits", 10)
        import_set("emnist-digits", archive, any_checksum=True)
    run("show", "emnist-digits", "--rows", 3, "--out", tmp_path / "digits.png")
    with Image.open(tmp_path / "digits.png") as sheet:
        assert sheet.size == (280, 84)


def test_the_set_of_every_installation_is_listed_and_shown_without_a_store(run, tmp_path):
    from PIL import Image

    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert rows["digits"]["state"] == "here"
    shown = json.loads(run("show", "digits", "--rows", 2, "--out", tmp_path / "digits.png", "--json").stdout)
    assert shown["parts"] == {"all": 1797}
    assert shown["classes"].startswith("10: 0, 1")
    with Image.open(tmp_path / "digits.png") as sheet:
        assert sheet.size == (80, 16)
        assert sheet.convert("L").getextrema() == (0, 255)


def test_categories_of_ones_own_are_shown_by_name(run, tmp_path):
    (tmp_path / "v.csv").write_text("y,city\n0,Ulm\n1,Bonn\n0,\n1,Ulm\n")
    (tmp_path / "v.toml").write_text('labels = "y"\ncategorical = ["city"]\n')
    assert run("import", "visits", tmp_path / "v.csv", "--schema", tmp_path / "v.toml").exit_code == 0
    shown = json.loads(run("show", "visits", "--json").stdout)
    assert shown["rows"]["city"] == ["Ulm", "Bonn", None, "Ulm"]


def test_texts_are_shown_with_the_names_of_their_labels(run, tmp_path):
    published = {part: [["wake me", "alarm"], ["pay it", "bill"]] for part in ("train", "val", "test")}
    published |= {f"oos_{part}": [["who won", "oos"]] for part in ("train", "val", "test")}
    (tmp_path / "data_full.json").write_text(json.dumps(published))
    assert run("import", "clinc150", tmp_path).exit_code == 0
    shown = json.loads(run("show", "clinc150", "--rows", 2, "--json").stdout)
    assert shown["rows"] == {"text": ["wake me", "pay it"], "label": ["alarm", "bill"]}
    assert "wake me" in run("show", "clinc150").stdout


@pytest.mark.parametrize("command", ["list", "fetch", "import", "show"])
def test_help_shows_an_example(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: suffice data {command}" in result.output


@pytest.mark.parametrize("arguments", [["fetch"], ["import", "x"], ["show", "x", "--rows", "0"], ["lost"]])
def test_bad_usage_is_status_2(run, arguments):
    assert run(*arguments).exit_code == 2
    assert run("import", "x", "y", "--bad", "ignore").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch", "imagenet"], "suffice: expected a file that can be downloaded directly"),
        (["fetch", "lost"], "suffice: expected one of cifar10"),
        (["fetch", "cifar1oo"], "got 'cifar1oo'; nearest: cifar10, cifar100"),
        (["import", "cifar10", "/nowhere"], "found nothing there"),
        (["show", "cifar10"], "suffice: expected the data set 'cifar10'"),
    ],
)
def test_a_failure_is_one_line_and_status_1(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.setenv("SUFFICE_DATA", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["suffice", "data", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("suffice: ")
    assert message in error
    assert "\n" not in error


def test_a_sheet_replaces_a_sheet_and_no_other_picture(run, tmp_path):
    run("import", "pets", pets(tmp_path))
    for _ in range(2):
        assert run("show", "pets", "--out", tmp_path / "sheet.png").exit_code == 0
    (tmp_path / "mine.png").write_text("mine")
    result = run("show", "pets", "--out", tmp_path / "mine.png")
    assert "mine.png, which suffice did not write" in str(result.exception)
    assert (tmp_path / "mine.png").read_text() == "mine"


HOSTILE = ["[red]x", "[/]", "[bold]", "\x1b[2J\x1b[31mx", "a\rb", "\u202egpj.exe", ":smile:", "a\\[b]", "\x9b31m"]

FOLDERS = [name for name in HOSTILE if "/" not in name]


def clean(result):
    """Return the output after checking that it contains no control characters."""
    assert result.exit_code == 0, result.output
    assert not any(ord(c) < 32 and c != "\n" for c in result.stdout)
    assert not set(result.stdout) & set("\x7f\x9b\u202e")
    return " ".join(result.stdout.split())


@pytest.mark.parametrize("name", FOLDERS)
def test_names_of_classes_are_shown_as_they_are_and_harm_no_terminal(run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    place = pets(tmp_path)
    (place / "dog").rename(place / name)
    (place / name / f"{name}.txt").write_text("x")
    shown = clean(run("import", "pets", place))
    assert printable(name) in shown
    assert printable(name) in clean(run("show", "pets"))
    clean(run("list"))


@pytest.mark.parametrize("name", HOSTILE)
def test_columns_categories_paths_and_faults_are_shown_as_they_are(run, tmp_path, name):
    place = tmp_path / name
    place.mkdir(parents=True)
    quoted = name.replace("\r", " ")  # which ends a line of text
    (place / "v.csv").write_text(f"y,{quoted},a\n0,{quoted},1\n1,b,2\n1,c,{quoted}\n")
    (place / "v.toml").write_text(f"labels = 'y'\nnumeric = ['a']\ncategorical = [{json.dumps(quoted)}]\n")
    result = run("import", "visits", place / "v.csv", "--schema", place / "v.toml", "--bad", "skip")
    assert "Skipped 1 malformed" in clean(result)
    shown = clean(run("show", "visits"))
    assert shown.count(printable(quoted)) == 2  # the column, and a category in it
    assert json.loads(run("show", "visits", "--json").stdout)["rows"][quoted] == [quoted, "b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_failure_that_quotes_a_name_is_one_clean_line(monkeypatch, capsys, tmp_path, name):
    monkeypatch.setenv("SUFFICE_DATA", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["suffice", "data", "import", "x", str(tmp_path / name)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.isprintable()
    assert line.startswith("suffice: expected the source at ")


def test_progress_is_named_after_files_without_being_markup(run, tmp_path):
    lines, _ = miniatures.criteo_lines(3)
    file = tmp_path / "[red]x[bold].txt"
    file.write_text("".join(lines))
    result = run("import", "criteo", file)
    assert result.exit_code == 0, result.output
    assert "[red]x[bold].txt" in result.output
