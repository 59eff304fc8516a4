import os
import subprocess
import sys


def modules_after(statement):
    program = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_runtime_imports_neither_torch_nor_suffice():
    found = modules_after("import suffice_runtime, suffice_runtime.cli")
    assert {"suffice_runtime", "numpy", "onnxruntime"} <= found
    assert not found & {"torch", "suffice", "onnx", "scipy", "sklearn"}
    assert not found & {"fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic"}
