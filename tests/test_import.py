import subprocess
import sys

import suffice


def seconds(statement: str) -> float:
    program = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    return min(
        float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    )


def test_importing_the_whole_public_api_costs_less_than_twice_importing_torch():
    names = ", ".join(name for name in suffice.__all__ if not name.startswith("_"))
    assert seconds(f"from suffice import {names}") < 2 * seconds("import torch")


def test_importing_suffice_alone_imports_no_torch():
    program = "import suffice, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_public_name_is_there():
    for name in suffice.__all__:
        assert getattr(suffice, name) is not None
