"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32×32 pixels (Krizhevsky 2009).

The official distribution is an archive of Python pickles; they are read by an unpickler that knows NumPy arrays
and nothing else, so that a forged one cannot run code.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from suffice.data import archives, encoded
from suffice.data.augment import CropFlip
from suffice.data.entry import Entry, Faults, Remote, holding
from suffice.data.store import Array, Writer

AUGMENT = CropFlip(padding=4)

_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
_TERMS = "none stated; cite Krizhevsky 2009"
_SHAPE = (3, 32, 32)
_LARGEST = 200 << 20


def convert_cifar10(source: Path, writer: Writer, faults: Faults) -> None:
    """The official archive or its folder."""
    names = [f"data_batch_{i}" for i in range(1, 6)]
    found = _unpickled(source, {*names, "test_batch", "batches.meta"})
    parts = {"train": [found[name] for name in names], "test": [found["test_batch"]]}
    _write(writer, {part: _joined(batches, b"labels") for part, batches in parts.items()})
    writer.manifest["classes"] = [name.decode() for name in found["batches.meta"][b"label_names"]]


def convert_cifar100(source: Path, writer: Writer, faults: Faults) -> None:
    """The official archive, its folder, or the compact mosaics."""
    compact = holding(source, "cifar100", "labels.npz", "train_0.webp")
    if compact is not None:
        _convert_compact(compact, writer)
        return
    found = _unpickled(source, {"train", "test", "meta"})
    _write(writer, {part: _joined([found[part]], b"fine_labels") for part in ("train", "test")})
    for part in ("train", "test"):
        writer.save(f"{part}_coarse", found[part][b"coarse_labels"], np.uint8)
    writer.manifest["classes"] = [name.decode() for name in found["meta"][b"fine_label_names"]]
    writer.manifest["coarse_classes"] = [name.decode() for name in found["meta"][b"coarse_label_names"]]


def _convert_compact(folder: Path, writer: Writer) -> None:
    mosaics = {"train": [f"train_{i}.webp" for i in range(5)], "test": ["test.webp"]}
    with np.load(folder / "labels.npz", allow_pickle=False) as labels:
        for part, files in mosaics.items():
            writer.save(f"{part}_labels", labels[part], np.uint8)
            writer.save(f"{part}_coarse", labels[f"{part}_coarse"], np.uint8)
            with writer.array(f"{part}_images", (len(labels[part]), *_SHAPE), np.uint8) as append:
                for done, file in enumerate(files, start=1):
                    append(_tiles((folder / file).read_bytes(), folder / file))
                    writer.progress(f"decode {part}", done, len(files))
        writer.manifest["classes"] = labels["names"].astype(str).tolist()
        writer.manifest["coarse_classes"] = labels["coarse_names"].astype(str).tolist()
        writer.manifest["parts"] = {part: len(labels[part]) for part in mosaics}
    writer.manifest["notes"] = ["sorted by class, not in the order of the original archive"]


def _tiles(data: bytes, file: Path) -> Array:
    """The images (N, 3, 32, 32) of a mosaic, row by row."""
    try:
        with encoded.opened(data) as image:
            width, height = image.size
            pixels = np.asarray(image.convert("RGB"))
    except (ValueError, OSError) as error:
        raise ValueError(f"expected a mosaic of images, got {file}: {error}") from error
    side = _SHAPE[1]
    return pixels.reshape(height // side, side, width // side, side, 3).transpose(0, 2, 4, 1, 3).reshape(-1, *_SHAPE)


def _write(writer: Writer, parts: dict[str, tuple[Array, Array]]) -> None:
    for part, (images, labels) in parts.items():
        writer.save(f"{part}_images", images.reshape(-1, *_SHAPE), np.uint8)
        writer.save(f"{part}_labels", labels, np.uint8)
    writer.manifest["parts"] = {part: len(labels) for part, (_, labels) in parts.items()}


def _joined(batches: list[dict[bytes, Any]], key: bytes) -> tuple[Array, Array]:
    images = np.concatenate([batch[b"data"] for batch in batches])
    labels = np.concatenate([batch[key] for batch in batches])
    if images.shape != (len(labels), np.prod(_SHAPE)):
        raise ValueError(f"expected 3,072 values for each of {len(labels)} labels, got {images.shape}")
    return images, labels


def _unpickled(source: Path, names: set[str]) -> dict[str, dict[bytes, Any]]:
    """The pickles of these names in an archive or folder."""
    found = {}
    for member in archives.members(source):
        name = Path(member.name).name
        if name in names and name not in found:
            found[name] = _ArrayUnpickler.read(member.read(_LARGEST), f"{member.name} in {source}")
    missing = names - set(found)
    if missing:
        raise ValueError(f"expected {', '.join(sorted(names))} in {source}, found no {', '.join(sorted(missing))}")
    return found


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and what JSON knows; anything else is refused."""

    ALLOWED = frozenset(
        {(f"{package}.multiarray", "_reconstruct") for package in ("numpy.core", "numpy._core")}
        | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
    )

    def find_class(self, module: str, name: str) -> Any:
        """The few names that an array needs."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)

    @classmethod
    def read(cls, data: bytes, where: str) -> dict[bytes, Any]:
        """A pickled mapping, as Python 2 wrote it."""
        try:
            value = cls(io.BytesIO(data), encoding="bytes").load()
        except Exception as error:  # a damaged pickle can raise anything
            raise ValueError(f"expected pickled arrays, got {where}: {error}; refused") from error
        if not isinstance(value, dict):
            raise ValueError(f"expected a pickled mapping, got {type(value).__name__} in {where}")
        return value


def _entry(classes: int, convert: Any, sha256: str) -> Entry:
    file = f"cifar-{classes}-python.tar.gz"
    return Entry(
        name=f"cifar{classes}",
        title=f"{classes}-class photographs, 32×32",
        kind="images",
        licence=_TERMS,
        home=_HOME,
        remotes=(Remote(file, f"sha256:{sha256}", f"https://www.cs.toronto.edu/~kriz/{file}"),),
        convert=convert,
        defaults={"validation": 5000},
    )


ENTRIES = (
    _entry(10, convert_cifar10, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
    _entry(100, convert_cifar100, "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"),
)
