import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
EXTRAS = ("data", "train", "report", "experiments")


def constraints(name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    return {canonicalize_name(package): Version(version) for package, version in pinned.items()}


def required():
    """Return the requirements of the core and of every extra for users."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    return [requirement for line in lines if (requirement := Requirement(line)).name != "suffice"]


def test_the_oldest_tested_versions_are_the_lower_bounds():
    oldest = constraints("constraints-oldest.txt")
    for requirement in required():
        (least,) = requirement.specifier
        assert (least.operator, Version(least.version)) == (">=", oldest[canonicalize_name(requirement.name)]), least


def test_the_newest_tested_versions_are_pinned_and_allowed():
    newest = constraints("constraints.txt")
    for requirement in required():
        assert newest[canonicalize_name(requirement.name)] in requirement.specifier
