import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "attach.md").read_text()
PROGRAMS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!```).)*```python\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE))


SAVING = PROGRAMS.pop("How do I save a network with attached exits?")


def test_there_is_a_program_for_each_family():
    assert list(PROGRAMS) == ["A residual network", "MSDNet", "A transformer", "Texts of different lengths"]


@pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")
def test_a_saved_network_with_attached_exits_is_loaded_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        exec(SAVING, {"__name__": "program"})


@pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of")
@pytest.mark.parametrize("family", PROGRAMS)
def test_the_program_runs_as_printed_and_is_correct_more_often_than_not(family, capsys):
    with torch.random.fork_rng():
        exec(PROGRAMS[family], {"__name__": "program"})
    (correct,) = re.findall(r"(\d+\.\d)% correct, \[\d+, \d+, \d+\] at each exit", capsys.readouterr().out)
    assert float(correct) > 50
