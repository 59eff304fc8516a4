"""Export every family, and write docs/exported-models.md: `python -m tests.gauntlet.exported OUTCOMES.json`.

Outcomes are kept in a file, so that an interrupted run goes on where it was. It takes half an hour on one core.
"""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tests.gauntlet.families import FAMILIES, GROUPS
from tests.gauntlet.hub import is_hub
from tests.gauntlet.jobs import BUNDLE, attempt
from tests.gauntlet.outcomes import Outcome
from tests.gauntlet.page import general, listed, title
from tests.gauntlet.run import ROOT

PAGE = ROOT / "docs" / "exported-models.md"

RUNS, REFUSED = "yes", "no"

_INTRODUCTION = """\
# Which models can be exported?

Each model of [models.md](models.md), small and with random weights, gets exits, is calibrated, and is exported with a
policy. "Yes" means that `suffice_runtime` answers as the network does: probabilities to 1e-4 at every exit, and the
same exits under the policy wherever scores are not that close to a threshold. Compared are single inputs and batches of
several sizes, and for texts other lengths and other padding than those of the example. "No" is an error that names the
reason; the reasons and what to do are below each table.
"""


def main(file: Path) -> int:
    """Return the exit status: 1 if any family has a fault."""
    outcomes = {name: Outcome(**entry) for name, entry in _read(file).items()}
    for family in FAMILIES:
        if family.name not in outcomes:
            with tempfile.TemporaryDirectory() as folder:
                outcomes[family.name] = attempt(family, BUNDLE, Path(folder))
            file.write_text(json.dumps({name: asdict(outcome) for name, outcome in outcomes.items()}, indent=1))
            print(family.name, outcomes[family.name].result, flush=True)
    faults = [f"{name}, {each.step}:\n{each.text}" for name, each in outcomes.items() if each.result == "fault"]
    print("\n".join(faults), file=sys.stderr)
    PAGE.write_text(page(outcomes))
    return bool(faults)


def page(outcomes: Mapping[str, Outcome]) -> str:
    """Return the page for the outcomes of all families by name."""
    sections = [_section(group, outcomes) for group in GROUPS]
    versions = ", ".join(
        f"{name} {version(name).partition('+')[0]}" for name in ("torch", "transformers", "onnxruntime")
    )
    footer = f"*Written by `python -m tests.gauntlet.exported`; {versions}; {len(FAMILIES)} families.*\n"
    return "\n".join([_INTRODUCTION, _summary(outcomes), *sections, footer])


def _section(group: str, outcomes: Mapping[str, Outcome]) -> str:
    """Return the heading, the table and the refusals of one group."""
    names = [family.name for family in FAMILIES if family.group == group]
    rows = [f"| {name} | {_cell(outcomes[name])} |" for name in names]
    refusals = _refusals({name: outcomes[name] for name in names})
    below = ["", "Not exported:", "", *refusals] if refusals else []
    return "\n".join([f"## {title(group)}", "", "| model | exported |", "| --- | --- |", *rows, *below, ""])


def _cell(outcome: Outcome) -> str:
    if outcome.result == "refused":
        return f"{REFUSED}, refused by `{outcome.step}`"
    return outcome.result if outcome.result == "fault" else RUNS


def _refusals(outcomes: Mapping[str, Outcome]) -> Sequence[str]:
    """Return one line for each different refusal, with the models that it concerns."""
    concerned: dict[tuple[str, str], list[str]] = {}
    for name, outcome in outcomes.items():
        if outcome.result == "refused":
            concerned.setdefault((general(outcome.reason), general(outcome.remedy)), []).append(name)
    return [
        f"- {listed(names)}: {reason}." + (f" *What to do:* {remedy}." if remedy else "")
        for (reason, remedy), names in concerned.items()
    ]


def _summary(outcomes: Mapping[str, Outcome]) -> str:
    run = [family for family in FAMILIES if outcomes[family.name].result in ("bit for bit", "up to rounding")]
    hub = [family for family in FAMILIES if is_hub(family)]
    ours = [family for family in run if is_hub(family)]
    return (
        f"{len(ours)} of {len(hub)} families of `transformers` and {len(run) - len(ours)} of "
        f"{len(FAMILIES) - len(hub)} hand-written networks are exported.\n"
    )


def _read(file: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(file.read_text()) if file.exists() else {}
    return found


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
