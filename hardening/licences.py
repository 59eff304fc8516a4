"""Licenses of installed packages: none may be unknown or forbid use in closed-source products."""

import json
import re

from hardening.environments import Environment

_FORBIDDEN = re.compile(r"\bA?GPL|UNKNOWN|Commercial", re.IGNORECASE)
"""Pattern of licenses that forbid such use; `LGPL`, which allows it, is removed before matching."""

_TITLE = re.compile(r"(Apache|MIT|BSD|ISC|Mozilla)\b.*Licen[cs]e.*", re.IGNORECASE)
"""Pattern of the first line of a license text that names the license, unlike, for example, a copyright line."""

_FIELDS = ("License-Expression", "License-Metadata", "License-Classifier")


def stated(environment: Environment) -> dict[str, list[str]]:
    """Return the licenses of each package of an environment, from its metadata or else from its license text."""
    environment.install("pip-licenses")
    python = environment.folder / "bin" / "python"
    options = ("--format=json", "--from=all", "--with-license-file", f"--python={python}")
    rows = json.loads(environment.python("-m", "piplicenses", *options))
    return {f"{row['Name']} {row['Version']}": _licenses_of(row) for row in rows}


def _licenses_of(row: dict[str, str]) -> list[str]:
    licenses = [row[field] for field in _FIELDS if row.get(field) not in (None, "UNKNOWN")]
    title = row["LicenseText"].strip().partition("\n")[0].strip()
    return licenses or [title] * bool(_TITLE.fullmatch(title))


def suspect(licences: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the packages without a license that is known and allows use in closed-source products."""
    return {
        package: texts
        for package, texts in licences.items()
        if all(_FORBIDDEN.search(text.replace("LGPL", "")) for text in texts)
    }
