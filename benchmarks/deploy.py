"""Speed of exported bundles, relative to the plain network in PyTorch and in ONNX Runtime, on one thread.

`make bench-deploy` prints medians of interleaved runs. The networks are MSDNet small and MiniLM with an exit after each
layer, with random exits, which do not affect the speed. The plain network is that of the last exit alone, without the
other exits and without uncertainty; its graph is one session of `onnxruntime`. "half the cost" is a policy for half of
the multiply-adds of the last exit. 8-bit stages are compared on the pretrained network and CIFAR-100's test images,
and on MiniLM and CLINC150's test texts, with accuracy and calibration error at the last exit, and the largest
difference of a probability between a bundle and its network, if the data are stored.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import suffice
from benchmarks import parity, runtime
from suffice import data, evaluation
from suffice.batches import Loader
from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.deploy import parity as bundles
from suffice.network import ExitNetwork, State
from suffice.reproduce.early_exit.text import classifiers, minilm, subjects
from suffice.utils.timing import interleaved
from suffice_runtime import Runner

REPEATS = 60
TOKENS, CLASSES = 12, 150
"""Tokens of a text, about CLINC150's mean, and number of its intents."""
INT8_IMAGES = 2000

Ways = dict[str, Callable[[], object]]


class LastExit(nn.Module):
    """Plain network: the stages and the last exit alone."""

    def __init__(self, network: ExitNetwork) -> None:
        super().__init__()
        self.stages, self.last = network.stages, network.exits[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, C)."""
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.last(x)
        return logits


def session(model: nn.Module, example: tuple[Any, ...], axes: Any, folder: Path) -> onnxruntime.InferenceSession:
    """Export a whole model to one graph, and open it on one thread."""
    file = folder / "plain.onnx"
    torch.onnx.export(model.eval(), example, file, dynamo=True, dynamic_shapes=axes, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def opened(calibrated: Calibrated, policy: Policy, example: State, folder: Path) -> Runner:
    """Export a calibrated network, and open the bundle."""
    suffice.export(calibrated, folder, policy=policy, example=example)
    return Runner(folder)


def images(folder: Path) -> list[Sequence[str]]:
    """Measure MSDNet on images."""
    torch.manual_seed(0)
    network = suffice.models.msdnet("cifar-small", num_classes=100).eval()
    x = torch.rand(640, 3, 32, 32)
    calibrated = suffice.calibrate(network, None, [(x[:200], torch.arange(200) % 100)], structure=None)
    policy = suffice.allocate(calibrated, x.split(64), budget=0.5)
    runner = opened(calibrated, policy, x[:2], folder / "bundle")
    plain = LastExit(network).eval()
    whole = session(plain, (x[:2],), ({0: torch.export.Dim("N", min=1)},), folder)
    name = whole.get_inputs()[0].name
    five = first_of_five(runner, x[:5].numpy())
    single = [row[None] for row in x[:5].numpy()]
    rows = compare(
        "MSDNet, batch 1, 20 % at the first exit, 80 % at the last",
        {
            "torch": lambda: [plain(torch.from_numpy(row)) for row in single],
            "onnx": lambda: [whole.run(None, {name: row}) for row in single],
            "bundle": lambda: [runner.run(row, five) for row in single],
        },
    )
    batch = x[:64]
    rows += compare(
        "MSDNet, batch 64, half the cost",
        {
            "torch": lambda: plain(batch),
            "onnx": lambda: whole.run(None, {name: batch.numpy()}),
            "bundle": lambda: runner.run(batch.numpy()),
        },
    )
    return rows


def first_of_five(runner: Runner, x: np.ndarray) -> Any:
    """Return the policy under which one of five images stops at the first exit, and the others at the last."""
    thresholds = np.full(len(runner.policy.thresholds), np.inf)
    scores = runner.run(x, replace(runner.policy, thresholds=thresholds, alternative=None, portion=0.0)).scores[:, 0]
    thresholds[0] = np.sort(scores)[-2:].mean()
    return replace(runner.policy, thresholds=thresholds, alternative=None, portion=0.0)


def texts(folder: Path) -> list[Sequence[str]]:
    """Measure MiniLM on short texts."""
    torch.manual_seed(0)
    model = classifiers.minilm(CLASSES).eval()
    nn.init.normal_(model.classifier.weight)
    ids = torch.randint(1000, 20_000, (320, TOKENS))
    x = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    network = minilm.attach(model, _first(x, 4), freeze=True)
    for exit_ in network.exits:
        nn.init.normal_(exit_.classifier.weight)  # type: ignore[union-attr,arg-type]
    labels = torch.arange(320) % CLASSES
    calibrated = suffice.calibrate(network, None, [(x, labels)], structure=None)
    policy = suffice.allocate(calibrated, [_first(x, 320)], budget=0.5)
    runner = opened(calibrated, policy, _first(x, 4), folder / "bundle")
    axes = {name: {0: torch.export.Dim("N", min=1), 1: torch.export.Dim("T", min=4)} for name in x}
    whole = session(model, tuple(_first(x, 4).values()), tuple(axes.values()), folder)
    names = [node.name for node in whole.get_inputs()]
    rows: list[Sequence[str]] = []
    for size in (1, 32):
        parts = [{name: values[i : i + size] for name, values in x.items()} for i in range(0, 320, size)][:10]
        arrays = [{name: values.numpy() for name, values in part.items()} for part in parts]
        feeds = [dict(zip(names, part.values(), strict=True)) for part in arrays]
        rows += compare(
            f"MiniLM, {TOKENS} tokens, batch {size}, half the cost",
            {
                "torch": lambda parts=parts: [model(**part) for part in parts],
                "onnx": lambda feeds=feeds: [whole.run(None, part) for part in feeds],
                "bundle": lambda arrays=arrays: [runner.run(part) for part in arrays],
            },
        )
    return rows


def _first(x: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: values[:count] for name, values in x.items()}


def compare(case: str, ways: Ways) -> list[Sequence[str]]:
    """Return the row of a case."""
    with torch.no_grad():
        times = interleaved(ways, repeats=REPEATS)
    ratios = (f"{times[name] / times['bundle']:.2f}" for name in ("torch", "onnx"))
    return [(case, *(f"{times[name]:.2f}" for name in ("torch", "onnx", "bundle")), *ratios)]


@dataclass(frozen=True)
class Int8Case:
    """Calibrated network to quantize, and data.

    Attributes:
        title: Title of the table.
        calibrated: Calibrated network in float32.
        few: Batches of inputs by which scales are chosen.
        validation: Labeled batches to tune on.
        test: Labeled batches to measure on.
        batch: Inputs that are timed, at most 32 examples.
    """

    title: str
    calibrated: Calibrated
    few: list[State]
    validation: Loader
    test: Loader
    batch: State


def int8_images() -> Int8Case:
    """Return the pretrained network and CIFAR-100."""
    sets = data.load("cifar100", seed=0)
    few = [x for x, _ in sets.train.subset(torch.arange(500)).batches(250, shuffle=False)]
    test = sets.test.subset(torch.arange(INT8_IMAGES)).batches(250)
    batch, _ = next(iter(sets.test.batches(32)))
    title = "CIFAR-100, MSDNet small, all exits, batch 32"
    calibrated = suffice.models.pretrained("cifar100-msdnet-small").calibrated
    return Int8Case(title, calibrated, few, sets.validation.batches(250), test, batch)


def int8_texts() -> Int8Case:
    """Return exits on MiniLM, fitted for a short time, and CLINC150."""
    calibrated, (requests, _) = parity.texts().calibrated, minilm.load()
    few = [subjects.inputs(batch) for batch in requests.train.subset(torch.arange(500)).batches(100, shuffle=False)]
    validation, test = (list(requests.batches(part, 100)) for part in ("validation", "test"))
    middle = subjects.inputs(test[len(test) // 2])
    return Int8Case("CLINC150, MiniLM, all exits, batch 32", calibrated, few, validation, test, _first(middle, 32))


def int8(case: Int8Case, folder: Path) -> Table:
    """Measure a network in 8-bit integers, with and without temperatures that are fitted again."""
    networks = {
        "float32": case.calibrated,
        "int8": suffice.quantize(case.calibrated, case.few),
        "int8, fitted again": suffice.quantize(case.calibrated, case.few, refit=case.validation),
    }
    runners, rows = {}, {}
    for name, calibrated in networks.items():
        policy = suffice.allocate(calibrated, case.validation, budget=0.5)
        runners[name] = opened(calibrated, policy, case.batch, folder / name)
        size = sum(file.stat().st_size for file in (folder / name).glob("*.onnx"))
        found = bundles.compare(calibrated, folder / name, case.test, policy)
        last = evaluation.per_exit(evaluation.predict(calibrated, case.test))[-1]
        rows[name] = (size / 1e6, last, max(found.differences))
    arrays = bundles.arrays(case.batch)
    times = interleaved({name: partial(runner.predict, arrays) for name, runner in runners.items()}, repeats=REPEATS)
    table = Table("stages", "MB", "top-1, %", "ECE", "NLL", "bundle", "ms", "float32 ÷ it", title=case.title)
    for name, (size, last, difference) in rows.items():
        values = (f"{100 * last['accuracy']:.2f}", f"{last['ece']:.4f}", f"{last['nll']:.4f}", f"{difference:.1e}")
        table.add_row(name, f"{size:.1f}", *values, f"{times[name]:.2f}", f"{times['float32'] / times[name]:.2f}")
    return table


def main() -> None:
    """Run the benchmarks and print their tables."""
    torch.set_num_threads(1)
    console = Console()
    table = Table("case", "torch, ms", "one graph, ms", "bundle, ms", "torch ÷ bundle", "one graph ÷ bundle")
    for measure in (images, texts):
        with tempfile.TemporaryDirectory() as folder:
            try:
                for row in measure(Path(folder)):
                    table.add_row(*row)
            except ImportError as error:
                console.print(f"{measure.__name__}: left out, {error}")
    console.print(table)
    for make in (int8_images, int8_texts):
        with tempfile.TemporaryDirectory() as folder:
            try:
                console.print(int8(make(), Path(folder)))
            except (FileNotFoundError, ImportError) as error:
                console.print(f"{make.__name__}: left out, {error}")
    runtime.main()


if __name__ == "__main__":
    main()
