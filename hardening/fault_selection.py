"""Selection of the faults of mutation testing, and of the test files that should detect them."""

import ast
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("calibration", "budget", "variation")
"""Packages with modules to mutate."""

_PACKAGE = "tests/test_package.py"
"""Test file that covers all modules."""

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
