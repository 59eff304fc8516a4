"""Overhead of the runtime's loop, relative to its graphs alone, for single examples.

`make bench-deploy` exports MSDNet for CIFAR with random weights, and prints medians of one interleaved run
on one thread. The graphs alone are `onnxruntime` with prepared inputs and nothing around it: no check, no score
compared with a threshold, no answer.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import suffice
from suffice.utils.timing import interleaved
from suffice_runtime import Runner

REPEATS = 300


def main() -> None:
    """Run the benchmark and print its table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = suffice.models.msdnet("cifar-small", num_classes=10).eval()
    images = torch.rand(60, 3, 32, 32)
    calibrated = suffice.calibrate(
        network, None, [(images, torch.arange(60) % 10)], structure=None, temperature=False, ensemble="average"
    )
    thresholds = torch.zeros(len(network.exits) - 1, dtype=torch.float64)
    shares = torch.full((len(network.exits),), 1 / len(network.exits), dtype=torch.float64)
    policy = suffice.Policy(thresholds, "confidence", 1.0, 1.0, shares, calibrated.digest)
    with tempfile.TemporaryDirectory() as folder:
        suffice.export(calibrated, f"{folder}/bundle", policy=policy, example=images[:2])
        runner = Runner(f"{folder}/bundle")
    table = Table("stops at", "graphs, ms", "run, ms", "overhead", title="MSDNet, cifar-small, one image, one thread")
    for k in range(len(network.exits)):
        x = images[:1].numpy()
        alone, run = graphs_alone(runner, x, k), stopping_at(runner, x, k)
        times = interleaved({"graphs": alone, "run": run}, repeats=REPEATS)
        overhead = times["run"] / times["graphs"] - 1
        table.add_row(f"exit {k}", f"{times['graphs']:.3f}", f"{times['run']:.3f}", f"{overhead:.1%}")
    Console().print(table)


def stopping_at(runner: Runner, x: np.ndarray, k: int) -> Callable[[], object]:
    """Return a function that runs a policy under which everything stops at exit k."""
    thresholds = np.full(len(runner.policy.thresholds), np.inf)
    thresholds[k:] = -np.inf
    policy = replace(runner.policy, thresholds=thresholds)
    return lambda: runner.run(x, policy)


def graphs_alone(runner: Runner, x: np.ndarray, k: int) -> Callable[[], None]:
    """Return a function that runs the graphs up to exit k on inputs that were prepared before."""
    calls, carried = [], [x]
    for graph in runner._network.graphs[: k + 1]:
        calls.append((graph.session, graph.outputs, dict(zip(graph.inputs, carried, strict=True))))
        carried = graph(carried).carried

    def run() -> None:
        for session, outputs, inputs in calls:
            session.run(outputs, inputs)

    return run


if __name__ == "__main__":
    main()
