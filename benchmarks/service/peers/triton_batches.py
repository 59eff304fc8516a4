"""Triton with dynamic batching, on a network of one graph in a Python model (PyTriton), in an environment of its own.

`pip install -c benchmarks/service/constraints-triton.txt nvidia-pytriton onnxruntime` makes the environment.
"""

import argparse
from pathlib import Path

import numpy as np
from graphs import Whole  # the folder of this script is on the path
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--wait-ms", type=float, default=2)
    choices = parser.parse_args()
    network = Whole(choices.bundle)

    @batch
    def infer(input: np.ndarray) -> dict[str, np.ndarray]:
        """Return label, confidence and exit (N, 1)."""
        label, confidence = network(input)
        exit_ = np.zeros((len(label), 1), dtype=np.int64)
        return {"label": label[:, None], "confidence": confidence[:, None], "exit": exit_}

    config = TritonConfig(http_address="127.0.0.1", http_port=choices.port, allow_grpc=False, allow_metrics=False)
    batcher = DynamicBatcher(max_queue_delay_microseconds=round(1000 * choices.wait_ms))
    outputs = [
        Tensor(name=name, dtype=dtype, shape=(1,))
        for name, dtype in (("label", np.int64), ("confidence", np.float32), ("exit", np.int64))
    ]
    with Triton(config=config) as triton:
        triton.bind(
            model_name="net",
            infer_func=infer,
            inputs=[Tensor(name="input", dtype=np.float32, shape=network.shape)],
            outputs=outputs,
            config=ModelConfig(max_batch_size=choices.max_batch, batcher=batcher),
        )
        triton.serve()


if __name__ == "__main__":
    main()
