"""What a measurement was made with: processor, system, and versions of what takes part."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("onnxruntime", "numpy", "fastapi", "uvicorn", "litserve", "tritonclient", "aiohttp")


def describe() -> dict[str, Any]:
    """Return processor, number of cores, system, and versions; packages that are not installed are left out."""
    import suffice_runtime

    versions = {"python": platform.python_version(), "suffice-runtime": suffice_runtime.__version__}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform(), "versions": versions}


def _processor() -> str:
    """Return the name of the processor, or its architecture if the system does not state it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
