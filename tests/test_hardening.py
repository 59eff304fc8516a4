"""Programs of the hardening tools that run elsewhere only after long preparations."""

import textwrap

import pytest

install = pytest.importorskip("hardening.install", reason="runs in a checkout only")


@pytest.mark.parametrize("extra", install.EXTRAS)
def test_the_program_of_an_extra_runs_where_the_extra_is_installed(extra):
    try:
        exec(textwrap.dedent(install.EXTRAS[extra]), {})
    except ModuleNotFoundError as error:
        if str(error.name).startswith("suffice"):
            raise
        pytest.skip(f"{error.name} is not installed")


def test_the_program_of_the_readme_is_found():
    compile(install.readme_program(), "README.md", "exec")
