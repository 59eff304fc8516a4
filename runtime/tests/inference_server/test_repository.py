import shutil

import pytest

import bundles
from suffice_runtime import cli
from suffice_runtime.triton import repository

pytest.importorskip("tritonclient.http")

from protocol_server import configuration


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_each_graph_is_a_model_and_the_manifest_travels_with_the_first(written, tmp_path, capsys):
    bundle = written()
    assert cli.main(["triton", str(bundle), str(tmp_path / "models"), "--name", "net"]) == 0
    assert capsys.readouterr().out.split() == ["net-stage-0", "net-stage-1", "net-stage-2"]
    graphs = [f"net-stage-{k}/{file}" for k in range(3) for file in ("1/model.onnx", "config.pbtxt")]
    assert names(tmp_path / "models") == sorted([*graphs, "net-stage-0/manifest.json"])
    for k in range(3):
        graph = (tmp_path / "models" / f"net-stage-{k}" / "1" / "model.onnx").read_bytes()
        assert graph == (bundle / f"stage-{k}.onnx").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["models"]  # nothing unfinished is left


def test_configurations_are_those_of_tritons_schema(written, tmp_path):
    repository.write(written(tokens=True), tmp_path, "net", max_batch_size=8)
    first, second = (configuration(tmp_path / f"net-stage-{k}") for k in (0, 1))
    assert (first.name, first.backend, first.max_batch_size) == ("net-stage-0", "onnxruntime", 8)
    assert first.HasField("dynamic_batching")
    assert {tensor.name: list(tensor.dims) for tensor in first.input} == {"input_ids": [-1], "attention_mask": [-1]}
    tensors = {tensor.name: tensor for tensor in second.input}
    assert list(tensors["running.0"].dims) == [3]
    assert list(tensors["running.1"].dims) == [1]  # one number for each example
    assert tensors["running.1"].HasField("reshape")
    assert list(tensors["running.1"].reshape.shape) == []


def test_a_model_that_is_there_is_not_replaced(written, tmp_path):
    (tmp_path / "net-stage-1").mkdir()
    with pytest.raises(FileExistsError, match="without the model net-stage-1"):
        repository.write(written(), tmp_path, "net")
    assert names(tmp_path) == []


def test_after_an_error_no_model_is_left(written, tmp_path, monkeypatch):
    def move(path, target):
        if target.name == "net-stage-2":
            raise OSError("No space left on device")
        shutil.move(path, target)

    monkeypatch.setattr("pathlib.Path.rename", move)
    with pytest.raises(OSError, match="No space"):
        repository.write(written(), tmp_path / "models", "net")
    assert list((tmp_path / "models").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


@pytest.mark.parametrize("name", ["", "../net", "a b", "a/b", ".hidden", 'a"'])
def test_a_name_that_is_no_folder_of_its_own_is_refused(written, tmp_path, name):
    with pytest.raises(ValueError, match="expected a name of letters, digits"):
        repository.write(written(), tmp_path, name)


@pytest.mark.parametrize("size", [0, -1, True, 2.0])
def test_a_batch_size_is_a_whole_number_above_zero(written, tmp_path, size):
    with pytest.raises(ValueError, match="max_batch_size as a whole number"):
        repository.write(written(), tmp_path, "net", max_batch_size=size)


def test_a_damaged_graph_is_refused(tmp_path):
    bundle = bundles.write(tmp_path / "bundle")
    (bundle / "stage-1.onnx").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"expected stage-1\.onnx"):
        repository.write(bundle, tmp_path / "models", "net")
    assert list((tmp_path / "models").iterdir()) == []
