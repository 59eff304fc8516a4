"""Mutation testing: how many small faults in the code do its own tests notice?

    python -m hardening.mutants --each 2 --seed 0

Of every module under the folders named, a few places are drawn and one operator for each (cosmic-ray's). The fault is
made in a copy of the working tree, and the tests of the module run there: its mirror, and others that import it. A
fault is killed if they fail or take five times as long. Faults that change nothing by what they are, within a type
annotation or of the lengths that zip asserts to be equal, are not made.
"""

import argparse
import ast
import contextlib
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from typing import TypeVar

Result = TypeVar("Result")

FOLDERS = ("calibration", "budget", "variation")
"""Packages whose modules are mutated."""

_PACKAGE = "tests/test_package.py"
"""Tests of all modules."""

_LONGEST = 1800.0
"""Seconds after which tests without a fault are given up."""

_MEMORY = 16 << 30
"""Bytes of addresses that tests may use: a fault must not take the machine down."""

_SERVER = multiprocessing.get_context("forkserver")
"""Processes start from one that has imported what takes long and no fault is made in."""

_PRELOADED = ["torch", "sklearn", "scipy.optimize", "pyarrow", "safetensors.torch", "pytest", "rich"]
"""What that one has imported."""

_NEAREST = 4
"""Most test files of a module, beside those of many."""

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
    """The test file that mirrors a module, those that import it, and what holds of its siblings and of all.

    Where there is no mirror, those of the modules that use it most stand in.
    """
    mirror = _mirror(root, Path(module))
    importing, of_users = _using(root, module)
    near = [mirror, *importing] if mirror else [*importing, *of_users, *_that_name(root, module)]
    near = list(dict.fromkeys(near))[:_NEAREST]
    alike = _mirror(root, Path(module).with_name("all.py"))
    return list(dict.fromkeys([*near, *([alike] if alike else []), _PACKAGE]))


def _mirror(root: Path, module: Path) -> str | None:
    parts = module.with_suffix("").parts[2:]
    mirror = root.joinpath("tests", *parts[:-1], f"test_{parts[-1]}.py")
    return str(mirror.relative_to(root)) if mirror.is_file() else None


def _using(root: Path, module: str) -> tuple[list[str], list[str]]:
    """Tests that import a module, and mirrors of modules that do, those that name it most often first."""
    *package, name = Path(module).with_suffix("").parts[1:]
    imports = re.compile(rf"from {re.escape('.'.join(package))}(\.{name} import|.* import .*\b{name}\b)")
    using: list[Counter[str]] = [Counter(), Counter()]
    for path in sorted([*(root / "src").rglob("*.py"), *(root / "tests").rglob("test_*.py")]):
        code, itself = path.read_text(), path.relative_to(root)
        tests = str(itself) if itself.parts[0] == "tests" else _mirror(root, itself)
        if tests and imports.search(code):
            using[itself.parts[0] == "src"][tests] += len(re.findall(rf"\b{name}\b", code))
    importing, of_users = ([tests for tests, _ in counts.most_common()] for counts in using)
    return importing, of_users


def _that_name(root: Path, module: str) -> list[str]:
    *folders, name = Path(module).with_suffix("").parts[2:]
    folder = root.joinpath("tests", *folders)
    while not folder.is_dir():
        folder = folder.parent
    near = sorted(folder.rglob("test_*.py"))
    counts = Counter({path: len(re.findall(name, path.read_text())) for path in near})
    return [str(path.relative_to(root)) for path, count in counts.most_common() if count]


def faults(root: Path, module: str, each: int, seed: int) -> list[Fault]:
    """A few faults of a module, at places drawn from all that some operator can change."""
    by_place: dict[tuple[int, int], list[Fault]] = {}
    annotated = set(_annotated_lines(root / module))
    for fault, place in _candidates(root, module):
        if not ("BitOr" in fault.operator and fault.line in annotated):
            by_place.setdefault(place, []).append(fault)
    draw = random.Random(f"{seed} {module}")
    places = draw.sample(sorted(by_place), min(each, len(by_place)))
    drawn = {place: draw.choice(by_place[place]) for place in places}
    asserted = set(_asserted_places(root / module))
    return [fault for place, fault in drawn.items() if place not in asserted]


def _candidates(root: Path, module: str) -> Iterator[tuple[Fault, tuple[int, int]]]:
    from cosmic_ray.commands.init import _all_work_items

    for item in _all_work_items([root / module], {}):
        mutation = item.mutations[0]
        yield Fault(module, mutation.operator_name, mutation.occurrence, mutation.start_pos[0]), mutation.start_pos


def _asserted_places(path: Path) -> Iterator[tuple[int, int]]:
    """Where `strict=True` stands in a call of zip: an assertion, without which right code does the same."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
            yield from ((k.value.lineno, k.value.col_offset) for k in node.keywords if k.arg == "strict")


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

    def seconds(self, tests: str) -> float:
        """How long a test file takes without a fault.

        Raises:
            RuntimeError: if it fails.
        """
        passed, took = self._run([tests], _LONGEST)
        if not passed:
            output = _output(self.root).read_text()[-2000:]
            raise RuntimeError(f"expected {tests} to pass without a fault, got a failure; mend that first:\n{output}")
        return took

    def outcome(self, fault: Fault, seconds: Mapping[str, float]) -> Outcome:
        """Make a fault, run the tests of its module and take it back."""
        from cosmic_ray import plugins
        from cosmic_ray.mutating import mutate_code

        tests, path = tests_of(self.root, fault.module), self.root / fault.module
        code = path.read_text()
        changed = mutate_code(code, plugins.get_operator(fault.operator)(), fault.occurrence)
        try:
            path.write_text(changed)
            passed, took = self._run(tests, 20 + 5 * sum(seconds[file] for file in tests))
        finally:
            path.write_text(code)
        return Outcome(fault, not passed, round(took, 1), _difference(code, changed))

    def _run(self, tests: Sequence[str], allowed: float) -> tuple[bool, float]:
        """Whether the tests pass in the seconds allowed, and how long they took."""
        began = time.monotonic()
        child = _SERVER.Process(target=_test, args=(self.root, tests))
        child.start()
        child.join(allowed)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.join()
        return child.exitcode == 0, time.monotonic() - began


def _test(root: Path, tests: Sequence[str]) -> None:
    """Run tests in this process, of a session of its own: exit status 0 if they pass."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    here = {
        "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    os.environ.update(here)
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(root / "src"), str(root)]
    os.chdir(root)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(_output(root), os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for number in (1, 2):
        os.dup2(output, number)
    import pytest

    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
    os._exit(status)  # without waiting for processes that a test has left


def _output(root: Path) -> Path:
    """Where the output of a copy's tests goes."""
    return root.with_suffix(".txt")


def _difference(code: str, changed: str) -> str:
    pairs = zip(code.splitlines(), changed.splitlines(), strict=False)
    return next((f"{a.strip()}  →  {b.strip()}" for a, b in pairs if a != b), "")


def run(root: Path, each: int, seed: int, workers: int, only: str = "") -> Iterator[Outcome]:
    """Outcomes of the faults of all modules whose path contains `only`, as they come."""
    chosen = [fault for module in modules(root) if only in module for fault in faults(root, module, each, seed)]
    os.environ["OMP_NUM_THREADS"] = "1"
    _SERVER.set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory() as base:
        free: Queue[Copy] = Queue()
        for number in range(workers):
            free.put(Copy(root, Path(base) / str(number)))

        def borrow(judge: Callable[[Copy], Result]) -> Result:
            copy = free.get()
            try:
                return judge(copy)
            finally:
                free.put(copy)

        with ThreadPoolExecutor(workers) as pool:
            files = sorted({file for fault in chosen for file in tests_of(root, fault.module)})
            taken = pool.map(lambda file: borrow(lambda copy: copy.seconds(file)), files)
            seconds = dict(zip(files, taken, strict=True))
            yield from pool.map(lambda fault: borrow(lambda copy: copy.outcome(fault, seconds)), chosen)


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
        parts = Path(fault.module).relative_to("src/suffice").parts
        folder = parts[0] if parts[0] in FOLDERS else "storage"
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
