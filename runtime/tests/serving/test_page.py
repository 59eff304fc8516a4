import re
from pathlib import Path

import bundles

PAGE = (Path(__file__).parents[3] / "docs" / "drift.md").read_text()
PROMISE = {"loss": "agreement", "max_loss": 0.3, "confidence": 0.95}


def test_the_program_of_the_page_serves_a_bundle_and_shows_its_watch(tmp_path, monkeypatch, capsys):
    bundles.write(tmp_path / "bundle", policy={**bundles.POLICY, "budget": None, "promise": PROMISE})
    monkeypatch.chdir(tmp_path)
    _, program = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    x = bundles.inputs(20)
    exec(program, {"__name__": "program", "x": x})
    exits, _, evidence, _ = capsys.readouterr().out.splitlines()
    assert exits == f"exits {bundles.exits(x).tolist()}"
    assert evidence.endswith(" 40.0 ()")  # two over an α of 5 %, and no alarm
