"""Installation: wheel and source archive in fresh environments, the core alone, with each extra, and with all.

    python -m hardening.install                                        every step
    python -m hardening.install archive --tests tests/test_files.py    one step, with a few of the tests

Both are built from a clone of what git holds, and everything is run outside the repository:

- wheel: the README's program on the core alone; what each extra is for, on the core and that extra. Without an extra,
  what needs it must be an error that names it.
- archive: the tests that the source archive carries, on everything, with the versions of constraints.txt. Then the
  licences of all that was installed.
- oldest: the same tests and the README's program with the versions of constraints-oldest.txt.
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hardening import licences
from hardening.environments import NEWEST, OLDEST, ROOT, Built, Environment

EXTRAS = {
    "data": "from PIL import Image; from suffice.data.formats import encoded; assert encoded",
    "train": """
        import torch, suffice
        from lightning_fabric import Fabric
        from suffice.training import Execution, train
        net, batch = suffice.models.convnet(num_classes=3), (torch.rand(12, 1, 8, 8), torch.arange(12) % 3)
        execution = Execution(fabric=Fabric(accelerator="cpu", devices=1))
        assert len(train(net, [batch], epochs=1, execution=execution)) == 1
    """,
    "report": "import suffice.report.page, jinja2, plotly",
    "experiments": "from suffice.reproduce.early_exit import lite0; import efficientnet_lite_pytorch; assert lite0",
}
"""Extras for users, and a program that each is for."""

MISSING = {
    "data": ["data", "import", "mine", "images"],
    "report": ["demo", "--out", "out"],
}
"""Commands of a person who lacks an extra: the output has to name it."""

TESTERS = ("hypothesis", "pytest", "pytest-xdist")
"""What the tests need beside the extras."""


def shown(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def readme_program() -> str:
    """The first complete program of the README."""
    program: str = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    return program


def wheel(built: Built, _tests: Sequence[str]) -> None:
    """The core alone, then with each extra."""
    core = Environment.create(built.base / "core")
    core.install(str(built.wheel))
    shown(f"core alone: {core.run(readme_program()).strip()}")
    picture = core.outside / "images" / "cat" / "1.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"")
    for extra, command in MISSING.items():
        output = core.python("-m", "suffice", *command, check=False)
        if f"suffice[{extra}]" not in output.replace("\n", ""):
            raise RuntimeError(f"expected the extra {extra!r} to be named, got\n{output[-2000:]}")
        shown(f"core alone, where {extra!r} is needed: {output.strip().splitlines()[-1]}")
    for extra, program in EXTRAS.items():
        environment = Environment.create(built.base / extra, beside=core)
        environment.install(f"suffice[{extra}] @ {built.wheel.as_uri()}")
        environment.run(program)
        shown(f"core and {extra!r}: passed")


def everything(built: Built, name: str, constraints: Path, tests: Sequence[str]) -> Environment:
    """An environment with the source archive and all extras, in which its tests pass."""
    made = Environment.create(built.base / name, constraints=constraints)
    made.install(f"suffice[{','.join(EXTRAS)}] @ {built.archive.as_uri()}", *TESTERS)
    subprocess.run(["tar", "-xzf", str(built.archive), "-C", str(made.outside), "--strip-components=1"], check=True)
    (made.outside / "src").rename(made.folder / "unused")  # what is tested is what is installed
    tested = made.python("-m", "pytest", "-n", "auto", "-p", "no:cacheprovider", *tests)
    shown(f"{name}, tests of the source archive: {tested.strip().splitlines()[-1]}")
    return made


def archive(built: Built, tests: Sequence[str]) -> None:
    """Everything, with the newest versions that are tested, and its licences."""
    found = licences.stated(everything(built, "newest", NEWEST, tests))
    suspect = licences.suspect(found)
    if suspect:
        raise RuntimeError(f"expected licences that allow use in closed products, got {suspect}")
    shown(f"licences: {len(found)} packages, all allow use in closed products")


def oldest(built: Built, tests: Sequence[str]) -> None:
    """Everything, with the oldest versions that are supported."""
    made = everything(built, "oldest", OLDEST, tests)
    shown(f"oldest, the README's program: {made.run(readme_program()).strip()}")


STEPS = {step.__name__: step for step in (wheel, archive, oldest)}


def main() -> None:
    """Run the steps, or those named, and print each result as it comes."""
    parser = argparse.ArgumentParser(prog="python -m hardening.install", description="Install and test from outside.")
    parser.add_argument("steps", nargs="*", metavar="step", help=f"of {', '.join(STEPS)}; all if none is named")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="paths below the source archive")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.steps if name not in STEPS]
    if unknown:
        parser.error(f"expected steps of {', '.join(STEPS)}, got {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as folder:
        built = Built.below(Path(folder))
        shown(f"built {built.wheel.name} and {built.archive.name}")
        for name in arguments.steps or STEPS:
            STEPS[name](built, arguments.tests)


if __name__ == "__main__":
    main()
