import subprocess
import sys

import pytest

import suffice


def seconds(statement: str) -> float:
    program = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    return min(
        float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    )


@pytest.mark.slow
def test_importing_the_whole_public_api_costs_less_than_twice_importing_torch():
    names = ", ".join(name for name in suffice.__all__ if not name.startswith("_"))
    assert seconds(f"from suffice import {names}") < 2 * seconds("import torch")


def test_importing_suffice_alone_imports_no_torch():
    program = "import suffice, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_modules_that_write_files_can_be_imported_without_fcntl():
    modules = "suffice.storage.artifact, suffice.data, suffice.reproduce.ledger, suffice.training.checkpoint, "
    modules += "suffice.report.page"
    program = f"import sys; sys.modules['fcntl'] = None; import {modules}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_every_public_name_is_defined():
    for name in suffice.__all__:
        assert getattr(suffice, name) is not None


def test_modules_in_the_docs_need_no_import_of_their_own():
    named = ["training.train", "training.losses.Smoothed", "evaluation.predict", "attach.plain.as_exit_network"]
    deeper = [
        "evaluation.ranking.by_score",
        "variation.baselines.moments.propagate",
        "calibration.density.fit",
        "report.tables.all_tables",
        "budget.drift",
    ]
    program = f"import suffice; {'; '.join(f'suffice.{name}' for name in named + deeper)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("package", [suffice, suffice.variation])
def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="has no attribute 'nosuch'"):
        package.nosuch  # noqa: B018
