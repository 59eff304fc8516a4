"""Decode images with Pillow: known formats only, bounded size, upright, three channels.

Only `FORMATS` are tried, independent of the file name, since some of Pillow's formats run external programs. An image
of several frames is decoded to the first one. 16-bit values are reduced to their upper 8 bits, as in Pillow for color
images; transparency is dropped, so that the colors beneath it are visible.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suffice.data.store.dataset import Array
from suffice.storage.reading import open_file

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""Supported formats, by Pillow's names; a multi-picture JPEG (MPO) counts as JPEG."""
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"}
"""File suffixes of the supported formats."""
MOST_PIXELS = 64_000_000
"""Largest number of pixels; a larger image is refused before it is decoded."""
LARGEST = 256 << 20
"""Largest file in bytes; a larger file is refused before it is read."""

_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""Transposition that makes an image upright, by its EXIF orientation."""
_SWAPPED = 5
"""First orientation that swaps width and height."""
_ORIENTATION = 0x0112
"""EXIF tag of the orientation."""
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2}
"""Bytes per pixel by mode (default 4); WebP takes three times as many, since it is decoded on two canvases."""


def require_pillow() -> Any:
    """Import Pillow and return the module `PIL.Image`.

    Raises:
        ImportError: If Pillow is missing; the message states the extra that installs it.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("expected Pillow to decode images, found none; pip install 'suffice[data]'") from error
    return Image


def read_image_file(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ValueError: If it is not a file, or larger than `LARGEST`.
    """
    if not path.is_file() and not path.exists():
        raise ValueError("something that is not a file")
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > LARGEST:
            raise ValueError(f"its {size:,} bytes are more than {LARGEST:,}; refused")
        return stream.read()


def open_image(data: bytes) -> Any:
    """Return a Pillow image, opened but not decoded.

    Raises:
        ValueError: If it is not an image of a supported format, or too large (a decompression bomb).
    """
    pillow = require_pillow()
    try:
        image = pillow.open(io.BytesIO(data), formats=FORMATS)
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise ValueError(f"{error}; refused") from error
    except pillow.UnidentifiedImageError as error:
        raise ValueError(_describe_unsupported(pillow, data)) from error
    except Exception as error:  # a damaged header can raise anything
        raise ValueError(f"it is damaged: {error or type(error).__name__}") from error
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} × {height} pixels are more than {MOST_PIXELS:,}; refused as a decompression bomb")
    return image


def decoded_bytes(image: Any) -> int:
    """Return approximately how many bytes an opened image takes when it is decoded.

    A progressive JPEG keeps the coefficients of its full size, even if it is decoded to a smaller one.
    """
    width, height = image.size
    coefficients = 6 * width * height if image.info.get("progressive") else 0
    image.draft(None, (1, 1))
    width, height = image.size
    by_pixel = 12 if image.format == "WEBP" else _BYTES_PER_PIXEL.get(image.mode, 4)
    return int(coefficients + width * height * by_pixel)


def check_decodes(image: Any) -> None:
    """Decode an opened image to its end and discard it; a JPEG is decoded at 1/8 of its size.

    Raises:
        ValueError: If it does not decode.
    """
    with image:
        image.draft(None, (1, 1))
        _load(image)


def exif_orientation(image: Any) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8; 1 if it is missing or unreadable."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # an image with damaged EXIF data is still usable
        return 1
    return orientation if orientation in _TURNS else 1


def oriented_size(size: Sequence[int], orientation: int) -> tuple[int, int]:
    """Return (width, height), swapped if the orientation swaps them; the function is its own inverse."""
    width, height = size
    return (height, width) if orientation >= _SWAPPED else (width, height)


def to_rgb(image: Any, orientation: int) -> Any:
    """Decode an opened image to an upright RGB image.

    Raises:
        ValueError: If it does not decode.
    """
    pillow = require_pillow()
    _load(image)
    if image.mode.startswith("I"):
        image = pillow.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("RGB")
    return image.transpose(getattr(pillow.Transpose, _TURNS[orientation])) if orientation in _TURNS else image


def decode_pixels(data: bytes) -> Array:
    """Decode an image of any size to upright pixels, uint8 (height, width, 3).

    Raises:
        ValueError: If it does not decode, or is too large (a decompression bomb).
    """
    with open_image(data) as image:
        return np.asarray(to_rgb(image, exif_orientation(image)))


def _load(image: Any) -> None:
    try:
        image.load()
    except Exception as error:  # a damaged image can raise anything
        raise ValueError(f"it is truncated or damaged: {error or type(error).__name__}") from error


def _describe_unsupported(pillow: Any, data: bytes) -> str:
    """Describe bytes that are not a readable image of `FORMATS`, by their first bytes."""
    pillow.init()
    for name, (_, accepts) in sorted(pillow.OPEN.items()):
        try:
            looks = accepts is not None and accepts(data[:16]) is True
        except Exception:  # too few bytes for this test
            continue
        if looks and name not in FORMATS:
            return f"an image of the format {name}, not of {', '.join(FORMATS)}; convert it"
        if looks:
            return f"a damaged {name} image in its {len(data):,} bytes"
    return f"no image in its {len(data):,} bytes"
