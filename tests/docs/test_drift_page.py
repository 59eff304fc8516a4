import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "drift.md").read_text()


def test_the_program_raises_an_alarm_for_a_loss_above_its_bound(capsys):
    program, _ = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)  # the runtime tests the second one
    exec(program, {"__name__": "program"})
    after, bound = re.findall(r"after (\d+) losses; the mean loss is below (0\.\d+)", capsys.readouterr().out)[0]
    assert 0 < int(after) <= 2000
    assert 0.03 < float(bound) < 0.06
