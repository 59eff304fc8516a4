"""Mutation testing: how many small faults in the code do its own tests notice?

    python -m hardening.mutants --each 2 --seed 0

Of every module under the folders named, a few places are drawn and one operator for each (cosmic-ray's). The fault is
made in a copy of the working tree, and the tests that mirror the module run there. A fault is killed if they fail or
take five times as long. Faults that change nothing, as within a type annotation, are not made.
"""

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue

FOLDERS = ("calibration", "budget", "variation")
"""Packages whose modules are mutated."""

_STRUCTURE = "tests/test_structure.py"
"""Tests of all modules."""

_NEAREST = 4
"""Test files that stand in for a mirror."""

FILES = ("artifact", "checkpoint", "exchange", "files", "fingerprint", "locks", "parts", "seal")
"""Modules of the storage that are mutated, where there are such."""


@dataclass(frozen=True)
class Fault:
    """One fault: the module, cosmic-ray's operator, which of its occurrences, and the line."""

    module: str
    operator: str
    occurrence: int
    line: int


@dataclass(frozen=True)
class Outcome:
    """What became of a fault: killed or not, the seconds that its tests took, and the change of the code."""

    fault: Fault
    killed: bool
    seconds: float
    diff: str


def modules(root: Path) -> list[str]:
    """Paths of the modules to be mutated, relative to the root."""
    package = root / "src" / "suffice"
    found = [path for folder in FOLDERS for path in sorted((package / folder).rglob("*.py"))]
    found += [path for name in FILES for path in sorted(package.rglob(f"{name}.py")) if path not in found]
    return [str(path.relative_to(root)) for path in found if path.name != "__init__.py"]


def tests_of(root: Path, module: str) -> list[str]:
    """The test file that mirrors a module, or those near it that name it most, and what holds of every module."""
    return [*_near(root, module), _STRUCTURE]


def _near(root: Path, module: str) -> list[str]:
    parts = Path(module).with_suffix("").parts[2:]
    folder = root.joinpath("tests", *parts[:-1])
    mirror = folder / f"test_{parts[-1]}.py"
    if mirror.is_file():
        return [str(mirror.relative_to(root))]
    while not folder.is_dir():
        folder = folder.parent
    near = sorted(folder.rglob("test_*.py"))
    counts = Counter({path: len(re.findall(parts[-1], path.read_text())) for path in near})
    named = [path for path, count in counts.most_common(_NEAREST) if count]
    return [str(path.relative_to(root)) for path in named or near]


def faults(root: Path, module: str, each: int, seed: int) -> list[Fault]:
    """A few faults of a module, at places drawn from all that some operator can change."""
    by_place: dict[tuple[int, int], list[Fault]] = {}
    annotated = set(_annotated_lines(root / module))
    for fault, place in _candidates(root, module):
        if not ("BitOr" in fault.operator and fault.line in annotated):
            by_place.setdefault(place, []).append(fault)
    draw = random.Random(f"{seed} {module}")
    places = draw.sample(sorted(by_place), min(each, len(by_place)))
    return [draw.choice(by_place[place]) for place in places]


def _candidates(root: Path, module: str) -> Iterator[tuple[Fault, tuple[int, int]]]:
    from cosmic_ray.commands.init import _all_work_items

    for item in _all_work_items([root / module], {}):
        mutation = item.mutations[0]
        yield Fault(module, mutation.operator_name, mutation.occurrence, mutation.start_pos[0]), mutation.start_pos


def _annotated_lines(path: Path) -> Iterator[int]:
    """Lines on which annotations of arguments, results or variables stand, where | joins types."""
    for node in ast.walk(ast.parse(path.read_text())):
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if annotation is not None:
                yield from range(annotation.lineno, annotation.end_lineno + 1)


class Copy:
    """A copy of the working tree in which faults are made, and its tests run on one thread."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.root = folder
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=source,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for name in listed:
            if (source / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / name, folder / name)
        self._unchanged: dict[tuple[str, ...], float] = {}

    def outcome(self, fault: Fault) -> Outcome:
        """Make a fault, run the tests of its module and take it back."""
        from cosmic_ray import plugins
        from cosmic_ray.mutating import mutate_code

        tests, path = tests_of(self.root, fault.module), self.root / fault.module
        allowed = 20 + 5 * self._seconds_unchanged(tests)
        code = path.read_text()
        changed = mutate_code(code, plugins.get_operator(fault.operator)(), fault.occurrence)
        try:
            path.write_text(changed)
            passed, seconds = self._run(tests, allowed)
        finally:
            path.write_text(code)
        return Outcome(fault, not passed, round(seconds, 1), _difference(code, changed))

    def _seconds_unchanged(self, tests: Sequence[str]) -> float:
        if tuple(tests) not in self._unchanged:
            passed, seconds = self._run(tests, 1800)
            if not passed:
                raise RuntimeError(
                    f"expected {' '.join(tests)} to pass without a fault, got a failure; mend that first"
                )
            self._unchanged[tuple(tests)] = seconds
        return self._unchanged[tuple(tests)]

    def _run(self, tests: Sequence[str], allowed: float) -> tuple[bool, float]:
        """Whether the tests pass in the seconds allowed, and how long they took."""
        here = {
            "PYTHONPATH": f"{self.root / 'src'}{os.pathsep}{self.root}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
        began = time.monotonic()
        try:
            done = subprocess.run(
                command,
                cwd=self.root,
                env={**os.environ, **here},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=allowed,
            )
        except subprocess.TimeoutExpired:
            return False, time.monotonic() - began
        return done.returncode == 0, time.monotonic() - began


def _difference(code: str, changed: str) -> str:
    pairs = zip(code.splitlines(), changed.splitlines(), strict=False)
    return next((f"{a.strip()}  →  {b.strip()}" for a, b in pairs if a != b), "")


def run(root: Path, each: int, seed: int, workers: int, only: str = "") -> Iterator[Outcome]:
    """Outcomes of the faults of all modules whose path contains `only`, as they come."""
    chosen = [fault for module in modules(root) if only in module for fault in faults(root, module, each, seed)]
    with tempfile.TemporaryDirectory() as base:
        free: Queue[Copy] = Queue()
        for number in range(workers):
            free.put(Copy(root, Path(base) / str(number)))

        def judge(fault: Fault) -> Outcome:
            copy = free.get()
            try:
                return copy.outcome(fault)
            finally:
                free.put(copy)

        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(judge, chosen)


def main() -> None:
    """Print every outcome, survivors with their change, and the share killed in each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=2, help="faults drawn of each module (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="copies that run at once")
    parser.add_argument("--only", default="", help="modules whose path contains this")
    parser.add_argument("--at-least", type=float, default=0.0, help="share to be killed, else exit status 1")
    parser.add_argument("--json", type=Path, help="file for the outcomes, a line each")
    options = parser.parse_args()
    killed, total = Counter[str](), Counter[str]()
    lines = options.json.open("w") if options.json else None
    for outcome in run(Path.cwd(), options.each, options.seed, options.workers, options.only):
        fault = outcome.fault
        folder = str(Path(fault.module).relative_to("src/suffice").parts[0])
        killed[folder] += outcome.killed
        total[folder] += 1
        where = f"{fault.module}:{fault.line}"
        verdict = "killed" if outcome.killed else "SURVIVED"
        print(f"{verdict:8} {outcome.seconds:6.1f} s  {where}  {outcome.diff}", flush=True)
        if lines:
            print(json.dumps({**asdict(fault), "killed": outcome.killed, "diff": outcome.diff}), file=lines, flush=True)
    for folder in sorted(total):
        print(f"{folder:24} {killed[folder]:4} of {total[folder]:4} killed, {killed[folder] / total[folder]:.0%}")
    share = killed.total() / max(1, total.total())
    print(f"{'all':24} {killed.total():4} of {total.total():4} killed, {share:.1%}")
    sys.exit(share < options.at_least)


if __name__ == "__main__":
    main()
