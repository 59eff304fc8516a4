"""Fresh virtual environments outside the repository, and what is built to be installed in them."""

import os
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

NEWEST = ROOT / "constraints.txt"
"""The versions that are tested with every change."""

OLDEST = ROOT / "constraints-oldest.txt"
"""The least versions that pyproject.toml allows."""

_HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Variables by which an environment would see another one."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment with versions as `constraints` has them; `outside` is a folder to work in."""

    folder: Path
    outside: Path
    constraints: Path

    @classmethod
    def create(cls, folder: Path, beside: "Environment | None" = None, constraints: Path = NEWEST) -> "Environment":
        """A new environment, which sees the packages of another one if it is given: they take gigabytes."""
        venv.create(folder, with_pip=True)
        outside = folder / "outside"
        outside.mkdir()
        made = cls(folder, outside, constraints)
        if beside is not None:
            (made.packages / "beside.pth").write_text(f"{beside.packages}\n")
        return made

    @property
    def packages(self) -> Path:
        """Where packages are installed."""
        return next((self.folder / "lib").glob("python3*")) / "site-packages"

    def install(self, *what: str) -> None:
        """Install with the versions of `constraints`."""
        self.python("-m", "pip", "install", "--quiet", "--constraint", str(self.constraints), *what)

    def python(self, *arguments: str, check: bool = True) -> str:
        """Output of Python with these arguments, run outside the repository on one thread.

        Raises:
            RuntimeError: if it fails and `check` is set.
        """
        command = [str(self.folder / "bin" / "python"), *arguments]
        environment = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
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
            raise RuntimeError(f"expected success from {' '.join(command)[:200]}, got\n{done.stdout[-20000:]}")
        return done.stdout

    def run(self, program: str, check: bool = True) -> str:
        """Output of a program."""
        lines = [line.removeprefix(" " * 8) for line in program.strip("\n").splitlines()]
        return self.python("-W", "ignore", "-c", "\n".join(lines), check=check)


@dataclass(frozen=True)
class Built:
    """Wheel and source archive of what git holds; other folders are made below `base`."""

    base: Path
    wheel: Path
    archive: Path

    @classmethod
    def below(cls, base: Path) -> "Built":
        """Build both from a clone, in an environment of their own."""
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
        return cls(base, next(out.glob("*.whl")), next(out.glob("*.tar.gz")))
