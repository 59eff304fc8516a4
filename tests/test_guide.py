import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parent.parent / "docs" / "guide.md").read_text()
PROGRAMS = dict(
    re.findall(r"^## ([^\n]+)\n(?:(?!```|^## ).)*```python\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE)
)

PERCENT = r"\d+(\.\d)?%"
PRINTED = {
    "How sure is my classifier?": [
        r"before: NLL 1\.\d+, ECE 0\.\d+",
        r"after: NLL 0\.\d+, ECE 0\.\d+",
    ],
    "Which setting should I use?": [rf".+: {PERCENT} right, NLL \d\.\d+, ECE 0\.\d+"] * 4,
    "How do I stop early, within a budget?": [
        r".+: [6-8]\d\.\d% right at [45]\d\.\d% of the cost, \[.+\] at each exit",
    ]
    * 3,
    "A budget in milliseconds": [r"\d+\.\d+ to \d+\.\d+ ms an example, \d+\.\d+ expected"],
    "How do I promise a loss?": [r"[0-4]\.\d% lost by stopping early, at [4-8]\d\.\d% of the cost"],
    "How do I answer a stream?": [
        *[r"batch [012]: 50 answered, .+, errors: \[\]"] * 3,
        r"batch 3: 49 answered, .+, errors: \['stage 0 failed for example 7 of batch 3: .+'\]",
        *[r"batch \d+: 50 answered, .+, errors: \[\]"] * 8,
    ],
    "How do I keep the cost when inputs change?": [
        r"frozen thresholds: 1[1-9]\d% of what the policy expects",
        r"running thresholds: (9\d|10\d)% of what the policy expects",
    ],
    "How do I answer by a deadline?": [r"exit [012]: \d with a probability of 0\.\d\d", r"after at most 20 ms: \d"],
    "How do I add data, or classes?": [
        r"at first: logits have a mean deviation of 1\.\d+",
        r"with more data: logits have a mean deviation of 0\.\d+",
        r"9\d\.\d% right with five classes",
    ],
    "How do I calibrate numbers and clicks?": [
        rf"clicks: {PERCENT} expected, {PERCENT} came",
        r"one noise for all: (8[6-9]|9[0-4])\.\d% within 90 %",
        r"a noise of its own: a deviation of 0\.1\d near 0 and 0\.3\d far from it",
    ],
    "What would dropout say, from one pass?": [
        r"one pass: off by 0\.0\d+ on average, of 0\.\d+",
        r"ten passes of dropout: off by 0\.0\d+ on average, of 0\.\d+",
    ],
    "Can I trust that estimate?": [
        r"R² 0\.9\d of 1000 inputs, bias [+-]\d%, 0% far outside",
        r"(8[5-9]|9[0-5])% of what ten passes measure is in the band",
        r"far outside what it was fitted on: \[8, 9, 10, 11\]",
        r"([4-9]|10) of 12 were given real passes",
    ],
    "What would an ensemble say, or the posterior?": [
        r".+: a deviation of 0\.\d+ on average, R² 0\.\d\d when fitted",
    ]
    * 2,
    "Exits that stop on their dropout variation": [
        r"R² 0\.\d\d, 0\.\d\d of the exits' estimates when fitted",
        rf"{PERCENT} right, \[\d+, \d+\] at each exit",
    ],
    "Is this input like the training data?": [r"AUROC (0\.9\d|1\.00)"],
    "A network that comes with the library": [r"\w+ with a probability of [01]\.\d\d, at exit [0-3]"] * 4,
    "How do I save and load?": [
        r"the same answers: True, exits: True",
        r"other weights: expected a network whose weights .+",
    ],
    "Can several threads use one network?": [r"the same answers: True, training mode: True"],
}


def test_every_program_has_lines_that_it_is_expected_to_print():
    assert list(PROGRAMS) == list(PRINTED)
    assert PAGE.count("```python") == len(PROGRAMS)


@pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:asked for .* per example")
@pytest.mark.parametrize("task", PROGRAMS)
def test_the_program_prints_what_is_expected(task, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        exec(PROGRAMS[task], {"__name__": "program"})
    lines, expected = capsys.readouterr().out.splitlines(), PRINTED[task]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line)
