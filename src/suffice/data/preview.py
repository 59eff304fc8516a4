"""Preview of a data set: its facts, its first rows, a contact sheet of its images."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from suffice.data.formats.images import crops, decoding, packing
from suffice.data.sources import digits
from suffice.data.store.dataset import Array, StoredDataset
from suffice.storage import files

_SIDE = 96
"""Height and width of a photograph in a contact sheet, in pixels."""
_ACROSS = 10
"""Images in a row of a contact sheet."""
_MARK = b"suffice data show"
"""Marker in every contact sheet, so that other files are not overwritten."""
_NAME = 60
"""Maximal number of characters of a class name."""


def facts(stored: StoredDataset) -> dict[str, Any]:
    """Return a summary of the manifest."""
    manifest = stored.manifest
    names = ("name", "title", "kind", "licence", "home", "parts", "order", "notes")
    summary: dict[str, Any] = {name: manifest[name] for name in names if name in manifest}
    classes = manifest.get("classes", [])
    if classes:
        first = ", ".join(str(name)[:_NAME] for name in classes[:8])
        summary["classes"] = f"{len(classes)}: {first}{', …' if len(classes) > 8 else ''}"
    return {**summary, "skipped": manifest["skipped"]["count"], "bytes": stored.size, "folder": str(stored.folder)}


def first_rows(stored: StoredDataset, count: int) -> dict[str, list[Any]]:
    """Return the first rows of a table by column, as stored; own categories and the labels of texts by name."""
    with stored.parquet("rows").open() as file:
        first: dict[str, list[Any]] = next(file.iter_batches(batch_size=count)).to_pydict()
    for name, file in stored.manifest.get("categories", {}).items():
        names = stored.table(file)["value"].to_pylist()
        first[name] = [None if value is None else names[value] for value in first[name]]
    if stored.manifest["kind"] == "text":
        first["label"] = [stored.manifest["classes"][label] for label in first["label"]]
    return first


def embedded_facts() -> dict[str, Any]:
    """Return a summary of the set that is in every installation."""
    count = len(digits.all_images()[0])
    return {**digits.FACTS, "parts": {"all": count}, "classes": f"{digits.CLASSES}: {', '.join('0123456789')}"}


def write_contact_sheet(stored: StoredDataset | None, down: int, out: Path) -> Path:
    """Write a PNG of images spread evenly over a part, ten per row, and return its path.

    Args:
        stored: Data set of images; None for the set that is in every installation.
        down: Number of rows of images.
        out: Path of the PNG.

    Raises:
        ImportError: If the extra `data` is not installed.
        FileExistsError: If the path exists and is not a contact sheet.
    """
    files.check_replaceable(out, _MARK)
    pillow = decoding.require_pillow()
    from PIL.PngImagePlugin import PngInfo

    images = _sample_digits(down * _ACROSS) if stored is None else _sample_images(stored, down * _ACROSS)
    channels, height, width = images.shape[1:]
    blank = np.zeros((-len(images) % _ACROSS, channels, height, width), dtype=np.uint8)
    tiles = np.concatenate([images, blank]).reshape(-1, _ACROSS, channels, height, width)
    sheet = tiles.transpose(0, 3, 1, 4, 2).reshape(len(tiles) * height, _ACROSS * width, channels)
    picture = pillow.fromarray(np.ascontiguousarray(sheet.repeat(3, axis=2) if channels == 1 else sheet))
    info, encoded = PngInfo(), io.BytesIO()
    info.add_text("Software", _MARK.decode())
    picture.save(encoded, format="PNG", pnginfo=info)
    files.atomic_write(out, encoded.getvalue(), _MARK)
    return out


def _sample_images(stored: StoredDataset, most: int) -> Array:
    """Return up to `most` images (n, C, H, W) uint8, spread evenly over the first part."""
    part, count = next(iter(stored.manifest["parts"].items()))
    chosen = _spread(count, most)
    if stored.manifest["kind"] == "images":
        return np.asarray(stored.array(f"{part}_images")[chosen])
    source, _ = packing.unpack(stored, part)
    return np.stack([crops.decode_crop(source.read(int(index)), _SIDE, None) for index in chosen])


def _sample_digits(most: int) -> Array:
    """Return up to `most` digits (n, 1, 8, 8) uint8, spread evenly over all."""
    images = digits.all_images()[0]
    return (images[_spread(len(images), most)] * 255).round().byte().numpy()


def _spread(count: int, most: int) -> Array:
    """Return up to `most` indices spread evenly over `count`."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)
