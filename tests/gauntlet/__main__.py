"""Run every family, and write docs/models.md: `python -m tests.gauntlet`; with names of groups, print these instead."""

import sys
import tempfile
from pathlib import Path

from tests.gauntlet.families import FAMILIES, GROUPS
from tests.gauntlet.page import PAGE, page, section
from tests.gauntlet.run import run


def main(groups: list[str]) -> int:
    """Return the exit status: 1 if any family has a fault."""
    with tempfile.TemporaryDirectory() as folder:
        families = [family for family in FAMILIES if not groups or family.group in groups or family.name in groups]
        results = run(families, Path(folder))
    faults = [fault for result in results for fault in result.faults]
    for fault in faults:
        print(fault, file=sys.stderr)
    if not groups:
        PAGE.write_text(page(results))
        return bool(faults)
    for group in GROUPS:
        chosen = [result for result in results if result.family.group == group]
        if chosen:
            print(section(group, chosen))
    return bool(faults)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
