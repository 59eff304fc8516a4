"""Licences of what is installed beside suffice: none may be unknown or forbid use in closed products."""

import json
import re

from hardening.environments import Environment

_FORBIDDEN = re.compile(r"\bA?GPL|UNKNOWN|Commercial", re.IGNORECASE)
"""Licences that a closed product cannot live with; the LGPL, which it can, has a word of its own."""

_TITLE = re.compile(r"(Apache|MIT|BSD|ISC|Mozilla)\b.*Licen[cs]e.*", re.IGNORECASE)
"""First line of a licence's text that says which it is; others, such as a copyright, do not."""

_FIELDS = ("License-Expression", "License-Metadata", "License-Classifier")


def stated(environment: Environment) -> dict[str, list[str]]:
    """Licences that each package of an environment states: in its metadata or, if not there, by the text it carries."""
    environment.install("pip-licenses")
    python = environment.folder / "bin" / "python"
    options = ("--format=json", "--from=all", "--with-license-file", f"--python={python}")
    rows = json.loads(environment.python("-m", "piplicenses", *options))
    return {f"{row['Name']} {row['Version']}": _of(row) for row in rows}


def _of(row: dict[str, str]) -> list[str]:
    named = [row[field] for field in _FIELDS if row.get(field) not in (None, "UNKNOWN")]
    title = row["LicenseText"].strip().partition("\n")[0].strip()
    return named or [title] * bool(_TITLE.fullmatch(title))


def suspect(licences: dict[str, list[str]]) -> dict[str, list[str]]:
    """Packages with no licence, or only such as are unknown or forbid use in closed products."""
    return {
        package: texts
        for package, texts in licences.items()
        if all(_FORBIDDEN.search(text.replace("LGPL", "")) for text in texts)
    }
