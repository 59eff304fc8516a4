"""Fresh virtual environments outside the repository, and the distributions to install in them."""

import os
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

NEWEST = ROOT / "constraints.txt"
"""Versions that are tested with every change."""

OLDEST = ROOT / "constraints-oldest.txt"
"""Oldest versions that pyproject.toml allows."""

_HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Environment variables through which one environment would use packages of another."""


@dataclass(frozen=True)
class Environment:
    """Virtual environment outside the repository.

    Attributes:
        folder: Folder of the environment.
        outside: Working folder of its processes.
        constraints: File with the versions to install.
    """

    folder: Path
    outside: Path
    constraints: Path

    @classmethod
    def create(cls, folder: Path, beside: "Environment | None" = None, constraints: Path = NEWEST) -> "Environment":
        """Create an environment, which also uses the packages of `beside` if given, as they take gigabytes."""
        venv.create(folder, with_pip=True)
        outside = folder / "outside"
        outside.mkdir()
        environment = cls(folder, outside, constraints)
        if beside is not None:
            (environment.packages / "beside.pth").write_text(f"{beside.packages}\n")
        return environment

    @property
    def packages(self) -> Path:
        """Folder in which packages are installed."""
        return next((self.folder / "lib").glob("python3*")) / "site-packages"

    def install(self, *what: str) -> None:
        """Install packages in the versions of `constraints`."""
        self.python("-m", "pip", "install", "--quiet", "--constraint", str(self.constraints), *what)

    def python(self, *arguments: str, check: bool = True) -> str:
        """Run Python outside the repository on one thread, and return its output.

        Raises:
            RuntimeError: If it fails and `check` is set.
        """
        command = [str(self.folder / "bin" / "python"), *arguments]
        environment = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
        process = subprocess.run(
            command,
            cwd=self.outside,
            env={**environment, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check and process.returncode:
            raise RuntimeError(f"expected success from {' '.join(command)[:200]}, got\n{process.stdout[-20000:]}")
        return process.stdout

    def run(self, program: str, check: bool = True) -> str:
        """Run a program, and return its output."""
        lines = [line.removeprefix(" " * 8) for line in program.strip("\n").splitlines()]
        return self.python("-W", "ignore", "-c", "\n".join(lines), check=check)


@dataclass(frozen=True)
class Built:
    """Wheel and source archive of the committed files.

    Attributes:
        base: Folder for environments and other files.
        wheel: Path of the wheel.
        archive: Path of the source archive.
    """

    base: Path
    wheel: Path
    archive: Path

    @classmethod
    def below(cls, base: Path) -> "Built":
        """Build both from a clone, in a separate environment."""
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
