import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
EXTRAS = ("data", "train", "report", "experiments")
NEWEST_ONLY = ("export",)
"""Extras that need a newer PyTorch than the oldest."""


def constraints(name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    return {canonicalize_name(package): Version(version) for package, version in pinned.items()}


def required(*extras):
    """Return the requirements of the core and of extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [requirement for line in lines if (requirement := Requirement(line)).name != "suffice"]


def test_the_oldest_tested_versions_are_the_lower_bounds():
    oldest = constraints("constraints-oldest.txt")
    for requirement in required(*EXTRAS):
        (least,) = requirement.specifier
        assert (least.operator, Version(least.version)) == (">=", oldest[canonicalize_name(requirement.name)]), least


def test_the_newest_tested_versions_are_pinned_and_allowed():
    newest = constraints("constraints.txt")
    for requirement in required(*EXTRAS, *NEWEST_ONLY):
        assert newest[canonicalize_name(requirement.name)] in requirement.specifier


def test_extras_that_need_the_newest_pytorch_allow_no_minor_version_before_the_tested_one():
    newest = constraints("constraints.txt")
    for requirement in {*required(*NEWEST_ONLY)} - {*required()}:
        (least,) = requirement.specifier
        assert Version(least.version).release == newest[canonicalize_name(requirement.name)].release[:2]


def test_every_extra_for_users_is_installed_and_tested_from_outside():
    install = pytest.importorskip("hardening.install", reason="runs in a checkout only")
    assert {*EXTRAS, *NEWEST_ONLY} == set(install.EXTRAS)
    assert set(NEWEST_ONLY) == set(install.NEWEST_ONLY)
