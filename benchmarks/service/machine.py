"""What a measurement was made with: processor, system, and versions of what takes part."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("onnxruntime", "numpy", "fastapi", "uvicorn", "uvloop", "tritonclient", "aiohttp")


def describe(peers: Mapping[str, str]) -> dict[str, Any]:
    """Return processor, number of cores, system, and versions; packages that are not installed are left out.

    Args:
        peers: Python of the environment of each package that has one of its own.
    """
    import suffice_runtime

    versions = {"python": platform.python_version(), "suffice-runtime": suffice_runtime.__version__}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    for name, python in peers.items():
        program = f"from importlib import metadata; print(metadata.version({name!r}))"
        found = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
        versions[name] = found.stdout.strip()
    return {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform(), "versions": versions}


def _processor() -> str:
    """Return the name of the processor, or its architecture if the system does not state it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
