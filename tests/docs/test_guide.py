import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
PROGRAMS = dict(
    re.findall(r"^## ([^\n]+)\n(?:(?!```|^## ).)*```python\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE)
)

PERCENT = r"\d+(\.\d)?%"
PRINTED = {
    "How sure is my classifier?": [
        r"before: NLL 1\.\d+, ECE 0\.\d+",
        r"after: NLL 0\.\d+, ECE 0\.\d+",
    ],
    "Which setting should I use?": [rf".+: {PERCENT} correct, NLL \d\.\d+, ECE 0\.\d+"] * 4,
    "How do I stop early, within a budget?": [
        r".+: [6-8]\d\.\d% correct at [45]\d\.\d% of the cost, \[.+\] at each exit",
    ]
    * 3,
    "A budget in milliseconds": [r"\d+\.\d+ to \d+\.\d+ ms an example, \d+\.\d+ expected"],
    "How do I bound the loss from early exits?": [r"[0-4]\.\d% lost by stopping early, at [4-8]\d\.\d% of the cost"],
    "How do I get a set of labels that contains the true one?": [
        r"one image: \[\d(, \d)*\] at exit [012], true label \d",
        rf"all answers: (8[5-9]|9\d)% covered \({PERCENT} to {PERCENT}\), [1-4]\.\d labels",
        *[rf"exit {k}: ([89]\d|100)% covered \({PERCENT} to {PERCENT}\), \d\.\d labels" for k in range(3)],
    ],
    "How do I process a stream of batches?": [
        *[r"batch [012]: 50 finished, .+, errors: \[\]"] * 3,
        r"batch 3: 49 finished, .+, errors: \['stage 0 failed for example 7 of batch 3: .+'\]",
        *[r"batch \d+: 50 finished, .+, errors: \[\]"] * 8,
    ],
    "How do I keep the cost when inputs change?": [
        r"frozen thresholds: 1[1-9]\d% of what the policy expects",
        r"running thresholds: (9\d|10\d)% of what the policy expects",
    ],
    "How do I meet a deadline?": [r"exit [012]: \d with a probability of 0\.\d\d", r"after at most 20 ms: \d"],
    "How do I add data, or classes?": [
        r"initially: mean standard deviation of the logits 1\.\d+",
        r"with more data: mean standard deviation of the logits 0\.\d+",
        r"9\d\.\d% correct with five classes",
    ],
    "How do I calibrate regression and click models?": [
        rf"clicks: {PERCENT} predicted, {PERCENT} observed",
        r"constant noise: (8[6-9]|9[0-4])\.\d% within the 90 % interval",
        r"input-dependent noise: standard deviation 0\.1\d near 0, 0\.3\d far from it",
    ],
    "How do I calibrate a model with several labels?": [
        rf"before: ECE 0\.\d+, wrong labels {PERCENT}",
        rf"after: ECE 0\.0\d+, wrong labels {PERCENT}",
        rf"half the cost: {PERCENT} of the labels wrong",
        rf"mean average precision 0\.\d+, all labels right {PERCENT}",
    ],
    "How do I estimate the dropout variation from one pass?": [
        r"estimator, one pass: mean error 0\.0\d+, mean variation 0\.\d+",
        r"dropout, ten passes: mean error 0\.0\d+, mean variation 0\.\d+",
    ],
    "Can I trust that estimate?": [
        r"R² 0\.9\d on 1000 inputs, bias [+-]\d%, [012]% outside",
        r"(8[5-9]|9[0-5])% of the ten-pass measurements are in the band",
        r"outside the fitting data: \[8, 9, 10, 11\]",
        r"([4-9]|10) of 12 refined by dropout passes",
    ],
    "How do I use an ensemble or a posterior as the teacher?": [
        r".+: mean standard deviation 0\.\d+, validation R² 0\.\d\d",
    ]
    * 2,
    "How do I exit on the dropout variation?": [
        r"validation R² of the exits' estimates: 0\.\d\d, 0\.\d\d",
        rf"{PERCENT} correct, \[\d+, \d+\] at each exit",
    ],
    "Is this input like the training data?": [r"AUROC (0\.9\d|1\.00)"],
    "How do I use the pretrained network?": [r"\w+ with a probability of [01]\.\d\d, at exit [0-3]"] * 4,
    "How do I save and load?": [
        r"the same answers: True, exits: True",
        r"other weights: expected a network whose weights .+",
    ],
    "Can several threads use one network?": [r"the same answers: True, training mode: True"],
}


def test_every_program_has_lines_that_it_is_expected_to_print():
    assert list(PROGRAMS) == list(PRINTED)
    assert PAGE.count("```python") == len(PROGRAMS)


@pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of .* per example")
@pytest.mark.parametrize("task", PROGRAMS)
def test_the_program_prints_what_is_expected(task, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        exec(PROGRAMS[task], {"__name__": "program"})
    lines, expected = capsys.readouterr().out.splitlines(), PRINTED[task]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line)
