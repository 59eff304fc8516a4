"""A server of the Open Inference Protocol in a few lines: it reads requests and writes responses as bytes.

It takes the shapes of tensors from the configurations of a model repository, as Triton does.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnxruntime
import tritonclient
from google.protobuf import text_format
from tritonclient.http import InferenceServerClient
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype


def _schema():
    """Return the module with Triton's configuration, which is loaded by its file as its package needs gRPC."""
    file = Path(tritonclient.__file__).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONFIG = _schema().ModelConfig


def configuration(folder):
    """Return the configuration of a model, read by Triton's own schema."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), CONFIG())


class Server:
    """Client of tritonclient whose requests are answered in this process.

    Args:
        repository: Folder of the model repository.
    """

    def __init__(self, repository):
        self.repository, self.requests = Path(repository), []

    def infer(self, model_name, inputs, outputs):
        body, header = InferenceServerClient.generate_request_body(inputs, outputs=outputs)
        request, payload = json.loads(body[:header]), body[header:]
        folder = self.repository / model_name
        config = configuration(folder)
        self.requests.append((model_name, request["inputs"][0]["shape"][0]))
        feeds = {}
        for tensor, stated in zip(request["inputs"], config.input, strict=True):
            size = tensor["parameters"]["binary_data_size"]
            array = np.frombuffer(payload[:size], triton_to_np_dtype(tensor["datatype"])).reshape(tensor["shape"])
            payload = payload[size:]
            assert tensor["name"] == stated.name
            assert (
                f"TYPE_{tensor['datatype']}"
                == stated.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[stated.data_type].name
            )
            assert len(array) <= config.max_batch_size
            assert all(size in (-1, got) for size, got in zip(stated.dims, array.shape[1:], strict=True))
            feeds[stated.name] = array[:, 0] if stated.HasField("reshape") else array
        session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
        names = [output["name"] for output in request["outputs"]]
        return self._response(config, dict(zip(names, session.run(names, feeds), strict=True)))

    def _response(self, config, results):
        described, parts = [], []
        stated = {output.name: output for output in config.output}
        for name, array in results.items():
            shape = (len(array), *stated[name].dims) if stated[name].HasField("reshape") else array.shape
            parts.append(array.tobytes())
            described.append(
                {
                    "name": name,
                    "datatype": np_to_triton_dtype(array.dtype),
                    "shape": list(shape),
                    "parameters": {"binary_data_size": len(parts[-1])},
                }
            )
        header = json.dumps({"model_name": config.name, "outputs": described}).encode()
        body = header + b"".join(parts)
        return InferenceServerClient.parse_response_body(body, header_length=len(header))
