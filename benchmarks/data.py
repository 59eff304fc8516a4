"""Speed of data loading relative to a training step: images, photographs, tables, and imports.

`make bench-data` prints the table. The data are synthetic, in the official formats and sizes, in a temporary store:
50,000 images of CIFAR's shape, JPEG files of ImageNet's usual size, and Criteo text that repeats one block of rows.
Each import runs in its own process, to measure its peak of resident memory. On a busy machine, compare the rates per
second of CPU time, summed over all threads.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy

import suffice
from suffice.data import folder, load
from suffice.data.store.writer import create_dataset
from suffice.utils.progress import quiet

IMAGES, BATCH = 50_000, 256
PHOTOGRAPHS, PHOTOGRAPH = 400, (500, 375)
ROWS = (250_000, 1_000_000)
"""Number of rows of the smaller and the larger Criteo text; memory is constant if their peaks are equal."""

Row = list[str]
Rates = tuple[float, float]
"""Examples per second of wall-clock time, and per second of CPU time."""

_OPENED = """
import json, time
import torch
from suffice.data import load
torch.set_num_threads({threads})
generator = torch.Generator().manual_seed(0)
started, spent = time.perf_counter(), time.process_time()
next(iter(load("cifar100").train.shuffled(256, generator=generator)))
print(json.dumps([time.perf_counter() - started, time.process_time() - spent]))
"""
_IMPORTED = """
import json, re, time
from pathlib import Path
from suffice.data import import_set
started, spent = time.perf_counter(), time.process_time()
import_set("criteo", {source!r})
seconds = time.perf_counter() - started, time.process_time() - spent
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())  # getrusage includes the parent
print(json.dumps([*seconds, int(peak[1]) / 1024]))
"""


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    title = f"{threads} threads; medians of interleaved runs"
    table = Table("case", "wall time", "processor time", "comparison", title=title)
    with tempfile.TemporaryDirectory() as folder_name:
        temporary = Path(folder_name)
        os.environ["SUFFICE_DATA"] = str(temporary / "store")
        for rows in (images(threads), photographs(temporary), tables(temporary)):
            for row in rows:
                table.add_row(*row)
    Console(width=120).print(table)


def images(threads: int) -> list[Row]:
    """Measure opening a data set, and augmented batches relative to a training step and to single images."""
    make_images()
    opened = [in_process(_OPENED.format(threads=threads)) for _ in range(4)]
    data = load("cifar100")
    batches = data.train.shuffled(BATCH, generator=torch.Generator().manual_seed(0))
    network = suffice.models.convnet(num_classes=100, in_channels=3, widths=(16, 32, 64))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    x, y = next(iter(batches))

    def step() -> None:
        optimizer.zero_grad()
        sum(cross_entropy(logits, y) for logits in network(x)).backward()
        optimizer.step()

    single = torch.utils.data.DataLoader(Single(data.train), batch_size=BATCH, shuffle=True)
    ways: dict[str, Callable[[], int]] = {
        "batches": lambda: drain(batches, 40),
        "single": lambda: drain(single, 4),
        "step": lambda: [step() for _ in range(2)] and 2 * BATCH,
    }
    rates = interleaved_rates(ways)
    return [
        ["CIFAR-100 opened to a first batch, the first time", *(f"{seconds:.2f} s" for seconds in opened[0]), ""],
        ["the same with a recorded split", *(f"{seconds:.2f} s" for seconds in min(opened[1:])), ""],
        ["augmented batches, images/s", *shown(rates["batches"]), f"{ratio(rates, 'batches', 'single')} one at a time"],
        ["training the reference network, images/s", *shown(rates["step"]), ""],
        ["its batches, images/s", *shown(rates["batches"]), f"{ratio(rates, 'batches', 'step')} the step"],
    ]


def photographs(temporary: Path) -> list[Row]:
    """Measure the decoding of JPEG files to 224×224 in one process, for training and for evaluation."""
    make_photographs(temporary / "photographs")
    data = folder(temporary / "photographs", validation=0, test=0, workers=0)
    generator = torch.Generator().manual_seed(0)
    ways = {
        "train": lambda: drain(data.train.shuffled(50, generator=generator), 1 << 30),
        "evaluate": lambda: drain(data.train.batches(50, shuffle=False), 1 << 30),
    }
    rates = interleaved_rates(ways, repeats=3)
    name = f"{PHOTOGRAPH[0]}×{PHOTOGRAPH[1]} to 224, one process, images/s"
    return [[f"{name}, to {way}", *shown(rate), ""] for way, rate in rates.items()]


def tables(temporary: Path) -> list[Row]:
    """Measure imports of Criteo text of two sizes, and batches from it relative to a training step."""
    block, rows, peaks = criteo_block(), [], []
    for count in ROWS:
        source = temporary / "train.txt"
        with source.open("wb") as file:
            for _ in range(count // block.count(b"\n")):
                file.write(block)
        seconds, spent, peak = in_process(_IMPORTED.format(source=str(source)))
        peaks.append(peak)
        rows.append([f"Criteo import of {count:,} rows, rows/s", *shown((count / seconds, count / spent)), ""])
        rows.append(["its peak memory", f"{peak:,.0f} MB", "", f"{peak / peaks[0]:.2f}× the smaller"])
        source.unlink()
    ways: dict[str, Callable[[], int]] = {}
    for categories in ("hashed", "vocabulary"):
        data = load("criteo", categories=categories, min_frequency=10, buckets=100_000)
        batches = data.train.shuffled(1024, generator=torch.Generator().manual_seed(0))
        ways[categories] = lambda batches=batches: drain(batches, 500)
    ways["step"] = tower_step(data.train.sizes, next(iter(batches)))
    rates = interleaved_rates(ways, repeats=3)
    rows += [
        [f"Criteo batches, {name}, rows/s", *shown(rates[name]), f"{ratio(rates, name, 'step')} the step"]
        for name in ("hashed", "vocabulary")
    ]
    return rows


def make_images() -> None:
    """Write random images of CIFAR-100's shape to the store."""
    rng = np.random.default_rng(0)
    with create_dataset("cifar100", quiet) as writer:
        for part, count in (("train", IMAGES), ("test", IMAGES // 5)):
            writer.save(f"{part}_images", rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), np.uint8)
            writer.save(f"{part}_labels", np.arange(count) % 100, np.uint8)
        writer.manifest |= {"kind": "images", "parts": {"train": IMAGES, "test": IMAGES // 5}}
        writer.manifest["classes"] = [str(i) for i in range(100)]


def make_photographs(parent: Path) -> None:
    """Write JPEG files of smooth noise, about as large as photographs."""
    from PIL import Image

    rng = np.random.default_rng(0)
    (parent / "class").mkdir(parents=True)
    for i in range(PHOTOGRAPHS):
        coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        coarse.resize(PHOTOGRAPH, Image.Resampling.BICUBIC).save(parent / "class" / f"{i}.jpg", quality=90)


def criteo_block(rows: int = 50_000) -> bytes:
    """Generate rows of Criteo text: long-tailed counts, few to many categories, many missing values."""
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 2, rows).astype(str)]
    for _ in range(13):
        numbers = rng.lognormal(2, 2, rows).astype(np.int64).clip(0, 2_000_000).astype(str)
        columns.append(np.where(rng.random(rows) < 0.2, "", numbers))
    for field in range(26):
        distinct = int(10 ** rng.uniform(1, 6))
        codes = (rng.zipf(1.3, rows) % distinct * 2654435761 + field) % (1 << 32)
        columns.append(np.where(rng.random(rows) < 0.1, "", np.char.mod("%08x", codes)))
    text = io.StringIO()
    text.writelines("\t".join(row) + "\n" for row in zip(*(column.tolist() for column in columns), strict=True))
    return text.getvalue().encode()


def tower_step(sizes: tuple[int, ...], batch: dict[str, torch.Tensor]) -> Callable[[], int]:
    """Return a function that runs training steps of the embedding tower on one batch."""
    network = suffice.models.tower(sizes, num_classes=2, numeric=13, embedding=8, hidden=(256, 128, 64))
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    inputs = {key: batch[key] for key in ("categorical", "numeric")}

    def steps() -> int:
        for _ in range(5):
            optimizer.zero_grad()
            cross_entropy(network(inputs)[-1], batch["labels"]).backward()
            optimizer.step()
        return 5 * len(batch["labels"])

    return steps


class Single(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Data set that augments one image at a time, as `torch.utils.data` does with transforms."""

    def __init__(self, split: Any) -> None:
        self.split = split
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.split.pixels[self.split.rows[index]]
        top, left = torch.randint(0, 9, (2,), generator=self.generator).tolist()
        image = nn.functional.pad(image, (4, 4, 4, 4))[:, top : top + 32, left : left + 32]
        if torch.rand((), generator=self.generator) < 0.5:
            image = image.flip(-1)
        return self.split.prepare(image[None])[0], int(self.split.labels[index])


def drain(batches: Iterable[Any], most: int) -> int:
    """Read up to `most` batches, and return the number of examples."""
    count = 0
    for _, batch in zip(range(most), batches, strict=False):
        count += len(batch["labels"] if isinstance(batch, dict) else batch[1])
    return count


def interleaved_rates(ways: dict[str, Callable[[], int]], repeats: int = 5) -> dict[str, Rates]:
    """Measure the median rate of each function, calling them in turn."""
    measured: dict[str, list[Rates]] = {name: [] for name in ways}
    for name, way in order(ways, repeats):
        started, spent = time.perf_counter(), time.process_time()
        count = way()
        measured[name].append((count / (time.perf_counter() - started), count / (time.process_time() - spent)))
    return {name: tuple(np.median(rates[1:], axis=0)) for name, rates in measured.items()}  # the first is a warm-up


def order(ways: dict[str, Callable[[], int]], repeats: int) -> Iterator[tuple[str, Callable[[], int]]]:
    """Iterate over all functions `repeats + 1` times."""
    for _ in range(repeats + 1):
        yield from ways.items()


def shown(rates: Rates) -> list[str]:
    """Format both rates as cells."""
    return [f"{rate:,.0f}" for rate in rates]


def ratio(rates: dict[str, Rates], name: str, peer: str) -> str:
    """Format the rate relative to that of a peer, by CPU time."""
    return f"{rates[name][1] / rates[peer][1]:.1f}×"


def in_process(program: str) -> Any:
    """Run a program in a new process, and return what it prints as JSON."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
