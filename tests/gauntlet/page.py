"""The published table, docs/models.md: what is cut, what is refused, and what to do."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from tests.gauntlet.families import FAMILIES, GROUPS
from tests.gauntlet.hub import is_hub
from tests.gauntlet.outcomes import Outcome
from tests.gauntlet.run import ROOT, Result

PAGE = ROOT / "docs" / "models.md"

_INTRODUCTION = """\
# Which models work?

Each model below, small and with random weights, runs the whole way: `attach_exits`, training of the new exits,
`calibrate`, `allocate`, `run`, `run_stream`, `save`, and `load` in another process; then `fit_variation` with a dropout
teacher, its estimates, `audit`, `save` and `load`.

"Bit for bit" means that all of this works, that the last exit and the estimator's output equal the model's own output
bit for bit, that a loaded artifact answers the same bytes, and that every answer depends on its example alone: it is
the same (probabilities to 1e-5) alone and in any batch, in any order, and with any padding that does not change the
model's own answers. "Up to rounding" is the same but for the logits of the last exit: the model multiplies all tokens
by its classifier and then selects one position, the network selects first; or for the output of an estimator that reads
an `nn.TransformerEncoderLayer`, which then takes its plain path and not the fused one. "Refused" is an error that names
the reason; the reasons and what to do are below each table.

The third column is `fit_variation` with its default layers, the fourth with the name of a layer, `layers=["…"]`. The
last column names the padding that changes the answers of the model itself, where no library can help: pad such inputs
to one length, or answer each alone.
"""

_FAULTY = """\
**Where a cell says "fault", a step fails with an error that names no reason, or an answer is wrong.**
"""

_NUMBER = re.compile(r"\d+\.\d{3,}|\d+(\.\d+)?e-\d+")
"""Measured numbers in messages, which other processors round otherwise."""

_LONG = re.compile(r"(['\[][^'\[\]]{70})[^'\[\]]*(['\]])")

COLUMNS = {"exits": "exits", "estimator": "variation", "named layers": "variation, named layer"}
"""Heading of each job."""

_HEADER = f"""\
| model | {" | ".join(COLUMNS.values())} | its own answers depend on |
| --- | --- | --- | --- | --- |
"""


def page(results: Sequence[Result]) -> str:
    """Return the page for the results of all families."""
    sections = [section(group, [result for result in results if result.family.group == group]) for group in GROUPS]
    faulty = [_FAULTY] if any(result.faults for result in results) else []
    return "\n".join([_INTRODUCTION, *faulty, _summary(results), *sections, _footer()])


def section(group: str, results: Sequence[Result]) -> str:
    """Return the heading, the table and the refusals of one group."""
    rows = [_row(result) for result in results]
    refusals = _refusals(results)
    below = ["", "Refused:", "", *refusals] if refusals else []
    return "\n".join([f"## {title(group)}", "", _HEADER + "\n".join(rows), *below, ""])


def published() -> Mapping[str, str]:
    """Return the sections of the page by group."""
    text = PAGE.read_text()
    titles = {title(group): group for group in GROUPS}
    parts = text.split("\n## ")[1:]
    return {titles[heading]: f"## {part}" for part in parts if (heading := part.partition("\n")[0]) in titles}


def _row(result: Result) -> str:
    cells = [result.family.name, *map(_cell, result.jobs.values()), ", ".join(result.sensitive) or "its example"]
    return f"| {' | '.join(cells)} |"


def _cell(outcome: Outcome) -> str:
    if outcome.result == "refused":
        return f"refused by `{outcome.step}`"
    return outcome.result


def _refusals(results: Sequence[Result]) -> list[str]:
    """Return one line for each different refusal, with the models and columns that it concerns."""
    concerned: dict[tuple[str, str], dict[str, list[str]]] = {}
    for result in results:
        for job, outcome in result.jobs.items():
            if outcome.result == "refused":
                columns = concerned.setdefault((general(outcome.reason), general(outcome.remedy)), {})
                columns.setdefault(COLUMNS[job], []).append(result.family.name)
    return [
        f"- {'; '.join(f'{listed(names)} ({column})' for column, names in columns.items())}: {reason}."
        + (f" *What to do:* {remedy}." if remedy else "")
        for (reason, remedy), columns in concerned.items()
    ]


def general(text: str) -> str:
    """Return a message without measured numbers, and without the ends of long lists of names."""
    return _LONG.sub(r"\1…\2", _NUMBER.sub("…", text))


def listed(names: Sequence[str]) -> str:
    return ", ".join(f"**{name}**" for name in names)


def _summary(results: Sequence[Result]) -> str:
    cut = [result for result in results if result.jobs["exits"].result in ("bit for bit", "up to rounding")]
    hub = [result for result in results if is_hub(result.family)]
    return (
        f"{sum(map(cut.__contains__, hub))} of {len(hub)} families of `transformers` and "
        f"{len(cut) - sum(map(cut.__contains__, hub))} of {len(results) - len(hub)} hand-written networks get exits.\n"
    )


def _footer() -> str:
    versions = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in ("torch", "transformers"))
    return f"*Written by `python -m tests.gauntlet`; {versions}; {len(FAMILIES)} families.*\n"


def title(group: str) -> str:
    return group[0].upper() + group[1:]
