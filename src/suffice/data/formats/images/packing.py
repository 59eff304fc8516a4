"""Pack encoded images end to end into one file, after checking that each of them decodes."""

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
"""Maximal number of bytes of images, encoded and decoded, in memory at once; a larger image is checked alone."""

_QUEUE = 256
"""Maximal number of images in memory at once, and the interval of progress reports."""

Item = tuple[str, int, Path | bytes]
"""Name, label, and path or bytes of an image."""


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
    """Write a part of encoded images, and return their number.

    Args:
        writer: Writer of the data set.
        part: Name of the part.
        images: The images, in order.
        where: Name of the source, for messages.
        bad_records: Policy for images that do not decode and for classes without images.
        classes: Names of the classes that must have images.
        total: Expected number of images, for the progress; 0: unknown.

    Raises:
        ValueError: If an image does not decode or a class has no images, unless bad records are skipped; if there are
            no images.
    """
    offsets, labels, names = [0], [], []
    with (writer.folder / f"{part}.bin").open("wb") as out:
        for name, label, data in _decodable(images, where, bad_records):
            out.write(data)
            offsets.append(offsets[-1] + len(data))
            labels.append(label)
            names.append(os.fsencode(name))
            if len(labels) % _QUEUE == 0:
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
    """Return a packed part, memory-mapped: the encoded images, and their labels (N,) int64."""
    with stored.open(f"{part}.bin") as stream:
        data = np.memmap(stream, dtype=np.uint8, mode="r")
    file = stored.folder / f"{part}.bin"
    source = PackedImages(data, stored.array(f"{part}_offsets"), stored.array(f"{part}_names"), file)
    return source, stored.array(f"{part}_labels")


@dataclass(frozen=True)
class _Candidate:
    """Image that is being checked by a thread.

    Attributes:
        name: Name of the image.
        label: Class of the image.
        data: Encoded bytes.
        fault: Reason why it does not decode (empty if it does), or its future.
        size: Memory that it takes, encoded and decoded, in bytes.
    """

    name: str
    label: int
    data: bytes
    fault: "Future[str] | str"
    size: int


def _decodable(images: Iterable[Item], where: str, bad_records: BadRecords) -> Iterator[tuple[str, int, bytes]]:
    """Yield the images that decode, in order; threads check them in parallel, since decoding releases the GIL."""
    waiting: deque[_Candidate] = deque()
    held = 0
    with ThreadPoolExecutor() as pool:
        for name, label, content in images:
            data, image, reason = _open(content)
            size = len(data) + (0 if image is None else decoding.decoded_bytes(image))
            while waiting and (held + size > HELD or len(waiting) == _QUEUE):
                held -= waiting[0].size
                yield from _if_decodable(waiting.popleft(), where, bad_records)
            fault = reason if image is None else pool.submit(_decoding_error, image)
            waiting.append(_Candidate(name, label, data, fault, size))
            held += size
        while waiting:
            yield from _if_decodable(waiting.popleft(), where, bad_records)


def _open(content: Path | bytes) -> tuple[bytes, Any, str]:
    """Return the bytes of an image, and either the opened image or None and the reason."""
    data = b""
    try:
        data = content if isinstance(content, bytes) else decoding.read_image_file(content)
        return data, decoding.open_image(data), ""
    except ValueError as error:
        return data, None, str(error)


def _decoding_error(image: Any) -> str:
    """Return the reason why an opened image does not decode; empty if it does."""
    try:
        decoding.check_decodes(image)
    except ValueError as error:
        return str(error)
    return ""


def _if_decodable(candidate: _Candidate, where: str, bad_records: BadRecords) -> Iterator[tuple[str, int, bytes]]:
    """Yield the image if it decodes, else count a bad record."""
    reason = candidate.fault if isinstance(candidate.fault, str) else candidate.fault.result()
    if reason:
        bad_records.add(f"{candidate.name} in {where}", f"expected an image that decodes, got {reason}")
    else:
        yield candidate.name, candidate.label, candidate.data
