import re
from pathlib import Path

import pytest
import torch

from tests.deploy.bundles import require_exporter

PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
PROGRAM = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
PRINTED = [
    r"\['manifest.json', 'model_card.md', 'stage-0.onnx', 'stage-1.onnx']",
    r"stage-0.onnx: input \['N', 1, 8, 8\] -> next.state.0 \['N', 4, .*, aleatoric \['N'\], score \['N'\]",
    r"stage-1.onnx: state.0 .* -> log_probs \['N', 10\], aleatoric \['N'\]",
    r"\['estimator.onnx', 'manifest.json', 'model_card.md'\]",
    *2 * ("equal to 1e-4: True",),
    *2 * (r"accuracy 0\.\d{3}",),
]


@pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of .* per example")
def test_the_program_prints_what_is_expected(tmp_path, monkeypatch, capsys):
    require_exporter()
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        exec(PROGRAM, {"__name__": "program"})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PRINTED)
    for line, pattern in zip(lines, PRINTED, strict=True):
        assert re.fullmatch(pattern, line), line
