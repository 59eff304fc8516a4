"""Watch the promise of a served network on CIFAR-100 while its images are corrupted.

The pretrained MSDNet runs in an engine of `suffice_runtime` under the certified policies for a disagreement with the
last exit of at most 2 %, which are chosen on half of the test images, without labels. Streams are drawn from the other
half: first images as they are, then all corrupted in the same way. One percent of the requests, at random, is run on to
the last exit after it is answered, and an alarm puts the next policy in force.

    python experiments/live.py

prints a Markdown table and writes the runs as JSON beside this file. CIFAR-100 has to be in the store, and
suffice-runtime installed. It takes about a quarter of an hour on one core.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import suffice
from suffice import data
from suffice.data.splits.images import Images
from suffice.models import zoo
from suffice.reproduce import ledger, markdown
from suffice_runtime import Runner
from suffice_runtime.serving.engine import Engine

SEEDS = (0, 1, 2)
MAX_LOSS, POLICIES = 0.02, 6
REQUEST, STEP, CLEAN, CORRUPTED = 8, 200, 20_000, 60_000
"""Images of a request, of those that wait for answers together, and of each part of a stream."""

Corruption = Callable[[Tensor, torch.Generator], Tensor]
CORRUPTIONS: dict[str, Corruption] = {
    "none": lambda x, g: x,
    "noise": lambda x, g: (x + 0.1 * torch.randn(x.shape, generator=g)).clamp(0, 1),
    "blur": lambda x, g: functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="reflect"), 3, stride=1),
    "contrast": lambda x, g: 0.4 * x + 0.3,
    "brightness": lambda x, g: (x + 0.3).clamp(0, 1),
    "hidden half": lambda x, g: x * (torch.arange(32) < 16),
}
"""Functions of images (N, 3, 32, 32) in [0, 1] and a generator, by name of the corruption."""


def main() -> None:
    """Run all streams, write the JSON, and print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    made, test = zoo.pretrained("cifar100-msdnet-small"), data.load("cifar100", seed=0).test
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    certified, streamed = (test.subset(rows) for rows in order.chunk(2))
    policies = suffice.certified_policies(
        made.calibrated, certified.batches(250), MAX_LOSS, loss="agreement", count=POLICIES
    )
    example, _ = next(iter(certified.batches(2)))
    with tempfile.TemporaryDirectory() as folder:
        suffice.export(made.calibrated, f"{folder}/bundle", policy=policies[0], policies=policies, example=example)
        runs = [{name: run(f"{folder}/bundle", streamed, name, seed) for name in CORRUPTIONS} for seed in SEEDS]
    results = {
        "command": "python experiments/live.py",
        **ledger.provenance(),
        "max_loss": MAX_LOSS,
        "stream": {"images of a request": REQUEST, "as they are": CLEAN, "corrupted": CORRUPTED},
        "policies": [policy.expected / made.calibrated.costs.cumulative[-1] for policy in policies],
        "runs": runs,
    }
    ledger.write(Path(__file__).with_suffix(".json"), results)
    print(table(runs))


def run(bundle: str, images: Images, corruption: str, seed: int) -> dict[str, Any]:
    """Serve one stream.

    Returns:
        "alarms": for each alarm its kind and the number of images that were answered before it, to the next `STEP`.
        "clean", "corrupted": what is watched at the end of each part.
    """
    engine, generator = Engine(Runner(bundle), seed=seed), torch.Generator().manual_seed(seed)
    alarms, after = list[tuple[str, int]](), {}
    try:
        for part, count, change in (("clean", CLEAN, "none"), ("corrupted", CORRUPTED, corruption)):
            for done in range(0, count, STEP):
                serve(engine, images, CORRUPTIONS[change], generator)
                seen = (CLEAN if part == "corrupted" else 0) + done + STEP
                alarms += [(alarm.kind, seen) for alarm in engine.watch().alarms[len(alarms) :]]
            after[part] = asdict(engine.watch())
    finally:
        engine.close()
    return {"alarms": alarms, **after}


def serve(engine: Engine, images: Images, corrupt: Corruption, generator: torch.Generator) -> None:
    """Send `STEP` images, and wait for their answers."""
    assert images.mean is not None
    assert images.std is not None
    mean, std = (values[:, None, None] for values in (images.mean, images.std))
    rows = torch.randint(len(images), (STEP,), generator=generator)
    x = (corrupt(images.subset(rows).images.float() / 255, generator) - mean) / std
    for future in [engine.submit(request.numpy()) for request in x.split(REQUEST)]:
        future.result()


def table(runs: list[dict[str, Any]]) -> str:
    """Format what was watched; costs are means ± standard deviation over the seeds."""
    lines = [
        "| corruption | policies left, of each seed | corrupted images up to the first | loss of the last policy, % | "
        "alarm of exits after | cost, as they are / at the end |",
        "|---|---|---|---|---|---|",
    ]
    for name in CORRUPTIONS:
        found = [run[name] for run in runs]
        left = ", ".join(str(each["corrupted"]["step"]) for each in found)
        loss = markdown.spread([100 * each["corrupted"]["loss"] for each in found], 2)
        costs = [markdown.spread([each[part]["cost"] for each in found], 2) for part in ("clean", "corrupted")]
        first = [_first(found, kind) for kind in ("loss", "exits")]
        lines.append(f"| {name} | {left} | {first[0]} | {loss} | {first[1]} | {' / '.join(costs)} |")
    return "\n".join(lines)


def _first(found: list[dict[str, Any]], kind: str) -> str:
    """Return the numbers of corrupted images before the first alarm of a kind, of the seeds that have one."""
    counts = [next((seen - CLEAN for other, seen in each["alarms"] if other == kind), None) for each in found]
    return ", ".join("none" if count is None else f"{count:,}" for count in counts)


if __name__ == "__main__":
    main()
