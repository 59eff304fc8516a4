"""Installation: wheel and source archive in fresh environments, the core alone, with each extra, and with all.

    python -m hardening.install

Builds both from a copy of what git holds, installs them with the tested versions (constraints.txt), and runs, from
outside the repository: the README's program on the core alone; what each extra is for, on the core and that extra; the
tests that the source archive carries, on everything. Without an extra, what needs it must be an error that names it.
Last come the licences of all that was installed, of which none may be unknown or forbid use in closed products.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

EXTRAS = {
    "data": "from PIL import Image; from suffice.data import encoded; assert encoded",
    "train": """
        import torch, suffice
        from lightning_fabric import Fabric
        from suffice.training import train
        net, batch = suffice.models.convnet(num_classes=3), (torch.rand(12, 1, 8, 8), torch.arange(12) % 3)
        assert len(train(net, [batch], epochs=1, fabric=Fabric(accelerator="cpu", devices=1))) == 1
    """,
    "report": "import suffice.report.page, jinja2, plotly",
    "experiments": "from suffice.reproduce import lite0; import efficientnet_lite_pytorch; assert lite0",
}
"""Extras for users, and a program that each is for."""

MISSING = {
    "data": ["data", "import", "mine", "images"],
    "report": ["demo", "--out", "out"],
}
"""Commands of a person who lacks an extra: the output has to name it."""

FORBIDDEN = re.compile(r"\bA?GPL|UNKNOWN|Commercial", re.IGNORECASE)
"""Licences that a closed product cannot live with; the LGPL, which it can, has a word of its own."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment; `outside` is a folder to work in that is not the repository."""

    folder: Path
    outside: Path

    @classmethod
    def create(cls, folder: Path, beside: "Environment | None" = None) -> "Environment":
        """A new environment that sees the packages of another one, if given."""
        venv.create(folder, with_pip=True)
        outside = folder / "outside"
        outside.mkdir()
        made = cls(folder, outside)
        if beside is not None:
            (made.packages / "beside.pth").write_text(f"{beside.packages}\n")
        return made

    @property
    def packages(self) -> Path:
        """Where packages are installed."""
        return next((self.folder / "lib").glob("python3*")) / "site-packages"

    def install(self, *what: str) -> None:
        """Install with the tested versions."""
        self.python("-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), *what)

    def python(self, *arguments: str, check: bool = True) -> str:
        """Output of Python with these arguments, run outside the repository on one thread.

        Raises:
            RuntimeError: if it fails and `check` is set.
        """
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        command = [str(self.folder / "bin" / "python"), *arguments]
        done = subprocess.run(
            command,
            cwd=self.outside,
            env={**environment, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check and done.returncode:
            raise RuntimeError(f"expected success from {' '.join(command)[:200]}, got\n{done.stdout[-4000:]}")
        return done.stdout

    def run(self, program: str, check: bool = True) -> str:
        """Output of a program."""
        lines = [line.removeprefix(" " * 8) for line in program.strip("\n").splitlines()]
        return self.python("-W", "ignore", "-c", "\n".join(lines), check=check)


def readme_program() -> str:
    """The first complete program of the README."""
    program: str = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    return program


def build(base: Path) -> tuple[Path, Path]:
    """Wheel and source archive of what git holds, built in an environment of their own."""
    source, out = base / "source", base / "dist"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    builder = Environment.create(base / "builder")
    builder.install("hatchling")
    subprocess.run(
        [str(builder.folder / "bin" / "python"), "-m", "hatchling", "build", "-d", str(out)],
        cwd=source,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def check_licences(environment: Environment) -> list[str]:
    """Packages with a licence that is unknown or forbids use in closed products."""
    environment.install("pip-licenses")
    options = ("-m", "piplicenses", "--format=json", "--from=all", f"--python={environment.folder / 'bin' / 'python'}")
    rows = json.loads(environment.python(*options))
    suspect = []
    for row in rows:
        stated = [row.get("License-Expression"), row.get("License-Metadata"), row.get("License-Classifier")]
        named = [text for text in stated if text and text != "UNKNOWN"]
        if not named or all(FORBIDDEN.search(text.replace("LGPL", "")) for text in named):
            suspect.append(f"{row['Name']} {row['Version']}: {'; '.join(named) or 'no licence stated'}")
    return suspect


def main(selected: Sequence[str]) -> None:
    """Run the steps, or those named, and print each as it passes."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        wheel, archive = build(base)
        print(f"built {wheel.name} and {archive.name}", flush=True)
        core = Environment.create(base / "core")
        core.install(str(wheel))
        print("core alone:", core.run(readme_program()).strip(), flush=True)
        picture = core.outside / "images" / "cat" / "1.png"
        picture.parent.mkdir(parents=True)
        picture.write_bytes(b"")
        for extra, command in MISSING.items():
            output = core.python("-m", "suffice", *command, check=False)
            if f"suffice[{extra}]" not in output.replace("\n", ""):
                raise RuntimeError(f"expected the extra {extra!r} to be named, got\n{output[-2000:]}")
            print(f"core alone, where {extra!r} is needed: {output.strip().splitlines()[-1]}", flush=True)
        for extra, program in EXTRAS.items():
            environment = Environment.create(base / extra, beside=core)
            environment.install(f"suffice[{extra}] @ {wheel.as_uri()}")
            environment.run(program)
            print(f"core and {extra!r}: passed", flush=True)
        everything = Environment.create(base / "everything")
        everything.install(f"suffice[{','.join(EXTRAS)},dev] @ {archive.as_uri()}")
        subprocess.run(["tar", "-xzf", str(archive), "-C", str(everything.outside), "--strip-components=1"], check=True)
        (everything.outside / "src").rename(base / "unused")
        tested = everything.python("-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", *selected)
        print(f"everything, from the source archive: {tested.strip().splitlines()[-1]}", flush=True)
        suspect = check_licences(everything)
        print("licences:", "; ".join(suspect) or "all allow use in closed products", flush=True)
        sys.exit(bool(suspect))


if __name__ == "__main__":
    main(sys.argv[1:] or ["tests"])
