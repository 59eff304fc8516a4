import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest

import bundles
from suffice_runtime import Runner
from suffice_runtime.bundle.sessions import EstimatorGraph


def replace_graph(folder, change, k=1):
    """Replace the graph of stage k, with the checksum that it has then."""
    file = folder / f"stage-{k}.onnx"
    model = onnx.load_from_string(file.read_bytes())
    change(model)
    write_graph(folder, model.SerializeToString(), k)


def write_graph(folder, payload, k=1):
    (folder / f"stage-{k}.onnx").write_bytes(payload)
    sizes = {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    bundles.edit(folder, lambda entries: entries["stages"][k].update(sizes))


def test_a_changed_byte_is_found_by_the_checksum(copied):
    file = copied / "stage-2.onnx"
    payload = bytearray(file.read_bytes())
    payload[len(payload) // 2] ^= 1
    file.write_bytes(payload)
    with pytest.raises(
        ValueError, match=r"expected stage-2.onnx of [\d,]+ bytes with checksum .*damaged or of another"
    ):
        Runner(copied)


def test_a_cut_file_is_found_by_its_size(copied):
    file = copied / "stage-0.onnx"
    payload = file.read_bytes()
    file.write_bytes(payload[:-1])
    with pytest.raises(
        ValueError, match=f"expected stage-0.onnx of {len(payload):,} bytes .*{len(payload) - 1:,} bytes"
    ):
        Runner(copied)


def test_without_checks_a_damaged_graph_is_refused_by_onnx_runtime(copied):
    (copied / "stage-0.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"expected a graph that ONNX Runtime [\d.]+ can load, got stage-0.onnx"):
        Runner(copied, check=False)


@pytest.mark.parametrize("folder", [False, True])
def test_a_missing_graph_is_named(copied, folder):
    (copied / "stage-1.onnx").unlink()
    if folder:
        (copied / "stage-1.onnx").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected the graph stage-1.onnx of the bundle at .*copy the whole"):
        Runner(copied)


def test_operators_of_a_later_version_are_refused(copied):
    def later(model):
        model.opset_import[0].version = 99

    replace_graph(copied, later)
    bundles.edit(copied, lambda entries: entries.update(opset=99))
    with pytest.raises(ValueError, match=r"got stage-1.onnx with operators of version 99, .*upgrade onnxruntime"):
        Runner(copied)


def test_a_graph_with_other_names_is_refused(copied):
    def rename(model):
        for node in model.graph.node:
            node.output[:] = ["other" if name == "aleatoric" else name for name in node.output]
        next(node for node in model.graph.output if node.name == "aleatoric").name = "other"

    replace_graph(copied, rename)
    with pytest.raises(ValueError, match=r"expected stage-1.onnx with the outputs .*'aleatoric'.* got .*'other'"):
        Runner(copied)


def test_a_graph_of_another_type_is_refused(copied):
    bundles.edit(copied, lambda entries: entries["stages"][1]["outputs"][3].update(dtype="float64"))
    with pytest.raises(
        ValueError, match=r"expected \S+ float64 .* among the outputs of stage-1.onnx.*got tensor.float"
    ):
        Runner(copied)


def test_a_graph_of_another_shape_is_refused(copied):
    def wider(entries):
        entries["inputs"][0]["shape"] = entries["stages"][0]["inputs"][0]["shape"] = ["N", 5]

    bundles.edit(copied, wider)
    with pytest.raises(ValueError, match=r"expected input float32 \(N, 5\) among the inputs of stage-0.onnx.*\(N, 4\)"):
        Runner(copied)


def test_a_graph_with_a_fixed_number_of_rows_is_refused(copied):
    def fix(model):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    replace_graph(copied, fix, k=0)
    with pytest.raises(ValueError, match=r"among the inputs of stage-0.onnx, as in the manifest, got"):
        Runner(copied)


def test_a_provider_that_is_not_installed_is_named(copied):
    missing = "CUDAExecutionProvider"
    assert missing not in onnxruntime.get_available_providers()
    with pytest.raises(ValueError, match=f"got '{missing}'; install the build of onnxruntime that has it"):
        Runner(copied, providers=[missing, "CPUExecutionProvider"])


@pytest.mark.parametrize("providers", ["CPUExecutionProvider", []])
def test_providers_are_a_list_of_names(copied, providers):
    with pytest.raises(TypeError, match="expected providers as a list of names"):
        Runner(copied, providers=providers)


@pytest.mark.parametrize(("threads", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_threads_are_a_whole_number(copied, threads, error):
    with pytest.raises(error, match="expected threads"):
        Runner(copied, threads=threads)


def test_an_error_of_onnx_runtime_is_a_value_error_with_the_shapes_and_any_other_is_itself():
    class Failing:
        def __init__(self, error):
            self.error = error

        def run(self, outputs, feeds):
            raise self.error

    invalid = onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument("40 by 45")
    with pytest.raises(ValueError, match=r"got ids \(2, 45\), for which ONNX Runtime raised: 40 by 45"):
        EstimatorGraph(Failing(invalid), ("ids",), ("output",))([np.zeros((2, 45))])
    with pytest.raises(ConnectionError):
        EstimatorGraph(Failing(ConnectionError()), ("ids",), ("output",))([np.zeros((2, 45))])
