"""Mutation testing: the share of small faults in the code that its tests detect.

    python -m hardening.mutants --each 2 --seed 0

In every module of the chosen folders, a few places are sampled and one of cosmic-ray's operators for each. The fault
is made in a copy of the working tree, where the module's tests run: its mirror, and others that import it. A fault is
killed if they fail or take five times as long. Faults without an effect on behavior, in type annotations and in
`strict=True` of zip, are not made.
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
"""Packages with modules to mutate."""

_PACKAGE = "tests/test_package.py"
"""Test file that covers all modules."""

_LONGEST = 1800.0
"""Seconds after which tests without a fault are stopped."""

_MEMORY = 16 << 30
"""Limit of the address space of tests, in bytes: a fault must not exhaust the machine."""

_SERVER = multiprocessing.get_context("forkserver")
"""Context in which processes fork from a server that has imported `_PRELOADED`."""

_PRELOADED = ["torch", "sklearn", "scipy.optimize", "pyarrow", "safetensors.torch", "pytest", "rich"]
"""Modules that take long to import and are not mutated."""

_NEAREST = 4
"""Largest number of test files per module, besides those that cover many modules."""

FILES = ("artifact", "checkpoint", "files", "filesystem", "fingerprint", "locks", "parts", "seal")
"""Names of further modules to mutate."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        module: Path of the module.
        operator: Name of cosmic-ray's operator.
        occurrence: Number of the operator's occurrence in the module.
        line: Line of the fault.
    """

    module: str
    operator: str
    occurrence: int
    line: int


@dataclass(frozen=True)
class Outcome:
    """Outcome of a fault.

    Attributes:
        fault: The fault.
        killed: Whether the tests detected it.
        seconds: Duration of the tests.
        diff: The changed line, before and after.
    """

    fault: Fault
    killed: bool
    seconds: float
    diff: str


def modules(root: Path) -> list[str]:
    """Return the paths of the modules to mutate, relative to the root."""
    package = root / "src" / "suffice"
    paths = [path for folder in FOLDERS for path in sorted((package / folder).rglob("*.py"))]
    paths += [path for name in FILES for path in sorted(package.rglob(f"{name}.py")) if path not in paths]
    return [str(path.relative_to(root)) for path in paths if path.name != "__init__.py"]


def tests_of(root: Path, module: str) -> list[str]:
    """Return the test files of a module: its mirror, those that import it, and those of all modules.

    A module without a mirror gets the mirrors of the modules that use it most.
    """
    mirror = _mirror(root, Path(module))
    importing, of_users = _using(root, module)
    near = [mirror, *importing] if mirror else [*importing, *of_users, *_mentioning(root, module)]
    near = list(dict.fromkeys(near))[:_NEAREST]
    alike = _mirror(root, Path(module).with_name("all.py"))
    return list(dict.fromkeys([*near, *([alike] if alike else []), _PACKAGE]))


def _mirror(root: Path, module: Path) -> str | None:
    parts = module.with_suffix("").parts[2:]
    mirror = root.joinpath("tests", *parts[:-1], f"test_{parts[-1]}.py")
    return str(mirror.relative_to(root)) if mirror.is_file() else None


def _using(root: Path, module: str) -> tuple[list[str], list[str]]:
    """Return the tests that import a module, and the mirrors of modules that do, by how often they name it."""
    *package, name = Path(module).with_suffix("").parts[1:]
    imports = re.compile(rf"from {re.escape('.'.join(package))}(\.{name} import|.* import .*\b{name}\b)")
    using: list[Counter[str]] = [Counter(), Counter()]
    for path in sorted([*(root / "src").rglob("*.py"), *(root / "tests").rglob("test_*.py")]):
        code, user = path.read_text(), path.relative_to(root)
        tests = str(user) if user.parts[0] == "tests" else _mirror(root, user)
        if tests and imports.search(code):
            using[user.parts[0] == "src"][tests] += len(re.findall(rf"\b{name}\b", code))
    importing, of_users = ([tests for tests, _ in counts.most_common()] for counts in using)
    return importing, of_users


def _mentioning(root: Path, module: str) -> list[str]:
    *folders, name = Path(module).with_suffix("").parts[2:]
    folder = root.joinpath("tests", *folders)
    while not folder.is_dir():
        folder = folder.parent
    near = sorted(folder.rglob("test_*.py"))
    counts = Counter({path: len(re.findall(name, path.read_text())) for path in near})
    return [str(path.relative_to(root)) for path, count in counts.most_common() if count]


def faults(root: Path, module: str, each: int, seed: int) -> list[Fault]:
    """Sample faults of a module, at places sampled from all that an operator can change."""
    by_place: dict[tuple[int, int], list[Fault]] = {}
    annotated = set(_annotated_lines(root / module))
    for fault, place in _candidates(root, module):
        if not ("BitOr" in fault.operator and fault.line in annotated):
            by_place.setdefault(place, []).append(fault)
    rng = random.Random(f"{seed} {module}")
    places = rng.sample(sorted(by_place), min(each, len(by_place)))
    sampled = {place: rng.choice(by_place[place]) for place in places}
    asserted = set(_asserted_places(root / module))
    return [fault for place, fault in sampled.items() if place not in asserted]


def _candidates(root: Path, module: str) -> Iterator[tuple[Fault, tuple[int, int]]]:
    from cosmic_ray.commands.init import _all_work_items

    for item in _all_work_items([root / module], {}):
        mutation = item.mutations[0]
        yield Fault(module, mutation.operator_name, mutation.occurrence, mutation.start_pos[0]), mutation.start_pos


def _asserted_places(path: Path) -> Iterator[tuple[int, int]]:
    """Yield the places of `strict=True` in calls of zip: an assertion that has no effect on correct code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
            yield from ((k.value.lineno, k.value.col_offset) for k in node.keywords if k.arg == "strict")


def _annotated_lines(path: Path) -> Iterator[int]:
    """Yield the lines of type annotations, in which | is not an operator on values."""
    for node in ast.walk(ast.parse(path.read_text())):
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if annotation is not None:
                yield from range(annotation.lineno, annotation.end_lineno + 1)


class Copy:
    """Copy of the working tree in which faults are made and tests run on one thread."""

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
        """Return the duration of a test file without a fault, in seconds.

        Raises:
            RuntimeError: If it fails.
        """
        passed, took = self._run([tests], _LONGEST)
        if not passed:
            output = _output(self.root).read_text()[-2000:]
            raise RuntimeError(f"expected {tests} to pass without a fault, got a failure; fix that first:\n{output}")
        return took

    def outcome(self, fault: Fault, seconds: Mapping[str, float]) -> Outcome:
        """Make a fault, run the tests of its module, and restore the code."""
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

    def _run(self, tests: Sequence[str], timeout: float) -> tuple[bool, float]:
        """Return whether the tests pass in the allowed seconds, and their duration."""
        start = time.monotonic()
        child = _SERVER.Process(target=_test, args=(self.root, tests))
        child.start()
        child.join(timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.join()
        return child.exitcode == 0, time.monotonic() - start


def _test(root: Path, tests: Sequence[str]) -> None:
    """Run tests in this process, in a session of its own, and exit with status 0 if they pass."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    environment = {
        "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    os.environ.update(environment)
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(root / "src"), str(root)]
    os.chdir(root)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(_output(root), os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for number in (1, 2):
        os.dup2(output, number)
    import pytest

    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
    os._exit(status)  # does not wait for processes that a test has left running


def _output(root: Path) -> Path:
    """Return the path of the output of a copy's tests."""
    return root.with_suffix(".txt")


def _difference(code: str, changed: str) -> str:
    pairs = zip(code.splitlines(), changed.splitlines(), strict=False)
    return next((f"{a.strip()}  →  {b.strip()}" for a, b in pairs if a != b), "")


def run(root: Path, each: int, seed: int, workers: int, only: str = "") -> Iterator[Outcome]:
    """Yield the outcomes of faults in all modules with `only` in their path."""
    chosen = [fault for module in modules(root) if only in module for fault in faults(root, module, each, seed)]
    os.environ["OMP_NUM_THREADS"] = "1"
    _SERVER.set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory() as base:
        free: Queue[Copy] = Queue()
        for number in range(workers):
            free.put(Copy(root, Path(base) / str(number)))

        def with_free_copy(function: Callable[[Copy], Result]) -> Result:
            copy = free.get()
            try:
                return function(copy)
            finally:
                free.put(copy)

        with ThreadPoolExecutor(workers) as pool:
            files = sorted({file for fault in chosen for file in tests_of(root, fault.module)})
            durations = pool.map(lambda file: with_free_copy(lambda copy: copy.seconds(file)), files)
            seconds = dict(zip(files, durations, strict=True))
            yield from pool.map(lambda fault: with_free_copy(lambda copy: copy.outcome(fault, seconds)), chosen)


def main() -> None:
    """Print every outcome, and the share of killed faults in each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=2, help="number of faults per module (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="number of copies that run at once")
    parser.add_argument("--only", default="", help="only modules with this in their path")
    parser.add_argument("--at-least", type=float, default=0.0, help="smallest share of killed faults for exit status 0")
    parser.add_argument("--json", type=Path, help="file for the outcomes, one JSON object per line")
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
