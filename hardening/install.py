"""Installation of wheel and source archive in fresh environments: the core alone, with each extra, and with all.

    python -m hardening.install                                        every step
    python -m hardening.install archive --tests tests/test_files.py    one step, with a few of the tests

Both are built from a clone of the committed files, and everything runs outside the repository:

- wheel: the README's program on the core alone, and a program for each extra on the core and that extra. Without the
  extra, a command that needs it must raise an error that names it.
- archive: the tests in the source archive, on all extras, with the versions of constraints.txt; then the licenses of
  all installed packages.
- oldest: the same tests and the README's program with the versions of constraints-oldest.txt, without the extras that
  need a newer PyTorch.
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from hardening import licences
from hardening.environments import NEWEST, OLDEST, ROOT, Built, Environment

EXTRAS = {
    "data": "from PIL import Image; from suffice.data.formats.images import decoding; assert decoding",
    "train": """
        import torch, suffice
        from lightning_fabric import Fabric
        from suffice.training import Execution, train
        net, batch = suffice.models.convnet(num_classes=3), (torch.rand(12, 1, 8, 8), torch.arange(12) % 3)
        execution = Execution(fabric=Fabric(accelerator="cpu", devices=1))
        assert len(train(net, [batch], epochs=1, execution=execution)) == 1
    """,
    "report": "import suffice.report.page, jinja2, plotly",
    "export": """
        import onnx, onnxscript, tempfile
        import torch, suffice
        net, x = suffice.models.convnet(num_classes=3, widths=(4, 8)), torch.rand(60, 1, 8, 8)
        batches = [(x, torch.arange(60) % 3)]
        calibrated = suffice.calibrate(net, None, batches, structure=None, temperature=False)
        with tempfile.TemporaryDirectory() as folder:
            suffice.export(calibrated, f"{folder}/bundle", example=x)
    """,
    "experiments": "from suffice.reproduce.early_exit import lite0; import efficientnet_lite_pytorch; assert lite0",
}
"""Extras for users, each with a program that needs it."""

NEWEST_ONLY = ("export",)
"""Extras that need a newer PyTorch than the oldest."""

MISSING = {
    "data": ["data", "import", "mine", "images"],
    "report": ["demo", "--out", "out"],
}
"""Commands that need an extra; without it, their output must name it."""

TESTERS = ("hypothesis", "onnxruntime", "pytest", "pytest-xdist")
"""Packages that the tests need besides the extras."""


def report(text: str) -> None:
    """Print a line without buffering."""
    print(text, flush=True)


def readme_program() -> str:
    """Return the first complete program of the README."""
    program: str = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    return program


def wheel(built: Built, _tests: Sequence[str]) -> None:
    """Check the wheel: the core alone, then with each extra."""
    core = Environment.create(built.base / "core")
    core.install(str(built.wheel))
    report(f"core alone: {core.run(readme_program()).strip()}")
    picture = core.outside / "images" / "cat" / "1.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"")
    for extra, command in MISSING.items():
        output = core.python("-m", "suffice", *command, check=False)
        if f"suffice[{extra}]" not in output.replace("\n", ""):
            raise RuntimeError(f"expected an error that names the extra {extra!r}, got\n{output[-2000:]}")
        report(f"core alone, a command that needs {extra!r}: {output.strip().splitlines()[-1]}")
    for extra, program in EXTRAS.items():
        environment = Environment.create(built.base / extra, beside=core)
        environment.install(f"suffice[{extra}] @ {built.wheel.as_uri()}")
        environment.run(program)
        report(f"core and {extra!r}: passed")


def everything(built: Built, name: str, constraints: Path, extras: Iterable[str], tests: Sequence[str]) -> Environment:
    """Install the source archive with extras in a new environment, run its tests, and return the environment."""
    environment = Environment.create(built.base / name, constraints=constraints)
    environment.install(f"suffice[{','.join(extras)}] @ {built.archive.as_uri()}", *TESTERS)
    subprocess.run(
        ["tar", "-xzf", str(built.archive), "-C", str(environment.outside), "--strip-components=1"], check=True
    )
    (environment.outside / "src").rename(environment.folder / "unused")  # the tests use the installed package
    output = environment.python("-m", "pytest", "-n", "auto", "-p", "no:cacheprovider", *tests)
    report(f"{name}, tests of the source archive: {output.strip().splitlines()[-1]}")
    return environment


def archive(built: Built, tests: Sequence[str]) -> None:
    """Check the source archive with all extras in the newest tested versions, and the licenses."""
    stated = licences.stated(everything(built, "newest", NEWEST, EXTRAS, tests))
    suspect = licences.suspect(stated)
    if suspect:
        raise RuntimeError(f"expected licenses that allow use in closed-source products, got {suspect}")
    report(f"licenses: {len(stated)} packages, all allow use in closed-source products")


def oldest(built: Built, tests: Sequence[str]) -> None:
    """Check the source archive with all extras that they can have in the oldest supported versions."""
    extras = [extra for extra in EXTRAS if extra not in NEWEST_ONLY]
    environment = everything(built, "oldest", OLDEST, extras, tests)
    report(f"oldest, the README's program: {environment.run(readme_program()).strip()}")


STEPS = {step.__name__: step for step in (wheel, archive, oldest)}


def main() -> None:
    """Run the named steps, or all, and print each result."""
    parser = argparse.ArgumentParser(prog="python -m hardening.install", description="Install and test from outside.")
    parser.add_argument("steps", nargs="*", metavar="step", help=f"steps to run: {', '.join(STEPS)} (default: all)")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="tests of the source archive (default: all)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.steps if name not in STEPS]
    if unknown:
        parser.error(f"expected steps of {', '.join(STEPS)}, got {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as folder:
        built = Built.below(Path(folder))
        report(f"built {built.wheel.name} and {built.archive.name}")
        for name in arguments.steps or STEPS:
            STEPS[name](built, arguments.tests)


if __name__ == "__main__":
    main()
