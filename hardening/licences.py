"""Licences of what is installed beside suffice: none may be unknown or forbid use in closed products."""

import json
import re

from hardening.environments import Environment

_FORBIDDEN = re.compile(r"\bA?GPL|UNKNOWN|Commercial", re.IGNORECASE)
"""Licences that a closed product cannot live with; the LGPL, which it can, has a word of its own."""

_FIELDS = ("License-Expression", "License-Metadata", "License-Classifier")


def stated(environment: Environment) -> dict[str, list[str]]:
    """Licences that each package of an environment states of itself, by name and version."""
    environment.install("pip-licenses")
    python = environment.folder / "bin" / "python"
    rows = json.loads(environment.python("-m", "piplicenses", "--format=json", "--from=all", f"--python={python}"))
    return {
        f"{row['Name']} {row['Version']}": [row[field] for field in _FIELDS if row.get(field) not in (None, "UNKNOWN")]
        for row in rows
    }


def suspect(licences: dict[str, list[str]]) -> dict[str, list[str]]:
    """Packages with no licence, or only such as are unknown or forbid use in closed products."""
    return {
        package: texts
        for package, texts in licences.items()
        if all(_FORBIDDEN.search(text.replace("LGPL", "")) for text in texts)
    }
