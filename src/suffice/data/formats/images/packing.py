"""Pack image files end to end into one file, each of them read to its end first."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from suffice.data.formats.images import decoding, folders
from suffice.data.formats.images.encoded_files import PackedImages
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.dataset import Array, StoredDataset
from suffice.data.store.writer import DatasetWriter

HELD = 256 << 20
"""Bytes of images, encoded and decoded, that wait or are being read at once; a single larger one goes alone."""

_TOGETHER = 256

Item = tuple[str, int, Path | bytes]
"""Name and label of an image, and its file or its bytes."""


def pack(
    writer: DatasetWriter,
    part: str,
    images: Iterable[Item],
    where: str,
    bad_records: BadRecords,
    *,
    classes: Sequence[str] = (),
    total: int = 0,
) -> int:
    """Write a part of encoded images, and return how many.

    Args:
        writer: of the data set.
        part: its name.
        images: in order.
        where: they come from, for messages.
        bad_records: told of images that do not decode, and of classes without any.
        classes: names of those that must have images.
        total: how many images there should be, for the progress; 0: not known.

    Raises:
        ValueError: for an image that does not decode or a class without images, unless bad records are skipped; if there
            is no image at all.
    """
    offsets, labels, names = [0], [], []
    with (writer.folder / f"{part}.bin").open("wb") as out:
        for name, label, data in _sound(images, where, bad_records):
            out.write(data)
            offsets.append(offsets[-1] + len(data))
            labels.append(label)
            names.append(os.fsencode(name))
            if len(labels) % _TOGETHER == 0:
                writer.progress(f"pack {part}", len(labels), total)
    if not labels:
        raise ValueError(f"expected images in {where}, found none")
    folders.check_classes(labels, classes, where, bad_records)
    writer.save(f"{part}_offsets", offsets, np.int64)
    writer.save(f"{part}_labels", labels, np.int64)
    writer.save(f"{part}_names", np.array(names), np.array(names).dtype)
    writer.manifest.setdefault("parts", {})[part] = len(labels)
    return len(labels)


def unpack(stored: StoredDataset, part: str) -> tuple[PackedImages, Array]:
    """What `pack` wrote, memory-mapped: the images, and their labels (N,) int64."""
    with stored.open(f"{part}.bin") as stream:
        data = np.memmap(stream, dtype=np.uint8, mode="r")
    file = stored.folder / f"{part}.bin"
    source = PackedImages(data, stored.array(f"{part}_offsets"), stored.array(f"{part}_names"), file)
    return source, stored.array(f"{part}_labels")


@dataclass(frozen=True)
class _Looked:
    """An image that threads are reading to its end.

    Attributes:
        name: of the image.
        label: its class.
        data: its bytes.
        fault: why it does not decode, or what will give that; empty if it does.
        size: bytes that are held for it.
    """

    name: str
    label: int
    data: bytes
    fault: "Future[str] | str"
    size: int


def _sound(images: Iterable[Item], where: str, bad_records: BadRecords) -> Iterator[tuple[str, int, bytes]]:
    """Those images that decode, in order; read by threads, since decoding lets others run."""
    waiting: deque[_Looked] = deque()
    held = 0
    with ThreadPoolExecutor() as pool:
        for name, label, given in images:
            data, image, why = _opened(given)
            size = len(data) + (0 if image is None else decoding.decoded_bytes(image))
            while waiting and (held + size > HELD or len(waiting) == _TOGETHER):
                held -= waiting[0].size
                yield from _kept(waiting.popleft(), where, bad_records)
            waiting.append(_Looked(name, label, data, why if image is None else pool.submit(_fault, image), size))
            held += size
        while waiting:
            yield from _kept(waiting.popleft(), where, bad_records)


def _opened(given: Path | bytes) -> tuple[bytes, Any, str]:
    """The bytes of an image, and the image or why there is none."""
    data = b""
    try:
        data = given if isinstance(given, bytes) else decoding.read_image_file(given)
        return data, decoding.open_image(data), ""
    except ValueError as error:
        return data, None, str(error)


def _fault(image: Any) -> str:
    try:
        decoding.check_decodes(image)
    except ValueError as error:
        return str(error)
    return ""


def _kept(looked: _Looked, where: str, bad_records: BadRecords) -> Iterator[tuple[str, int, bytes]]:
    """The image, if it decodes."""
    why = looked.fault if isinstance(looked.fault, str) else looked.fault.result()
    if why:
        bad_records.add(f"{looked.name} in {where}", f"expected an image that decodes, got {why}")
    else:
        yield looked.name, looked.label, looked.data
