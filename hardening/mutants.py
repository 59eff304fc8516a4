"""Mutation testing: the share of small faults in the code that its tests detect.

    python -m hardening.mutants --each 2 --seed 0

In every module of the chosen folders, a few places are sampled and one of cosmic-ray's operators for each. The fault
is made in a copy of the working tree, where the module's tests run: its mirror, and others that import it. A fault is
killed if they fail or take five times as long. Faults without an effect on behavior, in type annotations and in
`strict=True` of zip, are not made.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
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

from hardening.fault_selection import FOLDERS, Fault, faults, modules, tests_of

Result = TypeVar("Result")

_LONGEST = 1800.0
"""Seconds after which tests without a fault are stopped."""

_MEMORY = 16 << 30
"""Limit of the address space of tests, in bytes: a fault must not exhaust the machine."""

_SERVER = multiprocessing.get_context("forkserver")
"""Context in which processes fork from a server that has imported `_PRELOADED`."""

_PRELOADED = ["torch", "sklearn", "scipy.optimize", "pyarrow", "safetensors.torch", "pytest", "rich"]
"""Modules that take long to import and are not mutated."""


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
