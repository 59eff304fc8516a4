"""Encoded images, opened and decoded by Pillow: of known formats, of a size that may be, upright, in three channels.

Only `FORMATS` are ever tried, whatever a file is called: Pillow knows others that run programs. Of an image of several
frames it is the first. Sixteen bits a value become eight (the upper ones), as Pillow does itself for color; what is
transparent is shown as what lies beneath.
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
"""Of images, as Pillow calls them; a JPEG of several pictures (MPO) is a JPEG."""
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"}
"""Of the names of such files."""
MOST_PIXELS = 64_000_000
"""A larger image is refused before it is decoded."""
LARGEST = 256 << 20
"""A larger file is refused before it is read."""

_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What makes an image upright, by its EXIF orientation."""
_SWAPPED = 5
"""The first orientation by which width and height change places."""
_ORIENTATION = 0x0112
_HELD_BY_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2}
"""Bytes, by the mode of an image; 4 of any other, three times that of a WebP, which is decoded on two canvases."""


def require_pillow() -> Any:
    """Return `PIL.Image`.

    Raises:
        ImportError: naming the extra that brings it.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("expected Pillow to decode images, found none; pip install 'suffice[data]'") from error
    return Image


def read_image_file(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ValueError: if it is no file, or larger than an image may be.
    """
    if not path.is_file() and not path.exists():
        raise ValueError("something that is no file")
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > LARGEST:
            raise ValueError(f"its {size:,} bytes are more than {LARGEST:,}; refused")
        return stream.read()


def open_image(data: bytes) -> Any:
    """Return a Pillow image, opened but not decoded.

    Raises:
        ValueError: if it is no image of a known format, or so large that it must be a decompression bomb.
    """
    pillow = require_pillow()
    try:
        image = pillow.open(io.BytesIO(data), formats=FORMATS)
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise ValueError(f"{error}; refused") from error
    except pillow.UnidentifiedImageError as error:
        raise ValueError(_unknown(pillow, data)) from error
    except Exception as error:  # a damaged header can raise anything
        raise ValueError(f"it is damaged: {error or type(error).__name__}") from error
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} × {height} pixels are more than {MOST_PIXELS:,}; refused as a decompression bomb")
    return image


def decoded_bytes(image: Any) -> int:
    """Return about how many bytes an opened image takes once it is decoded.

    A progressive JPEG is held as coefficients of the full size, whatever the size that it is decoded to.
    """
    width, height = image.size
    coefficients = 6 * width * height if image.info.get("progressive") else 0
    image.draft(None, (1, 1))
    width, height = image.size
    by_pixel = 12 if image.format == "WEBP" else _HELD_BY_PIXEL.get(image.mode, 4)
    return int(coefficients + width * height * by_pixel)


def check_decodes(image: Any) -> None:
    """Read an opened image to its end, a JPEG at an eighth of its size.

    Raises:
        ValueError: if it does not decode.
    """
    with image:
        image.draft(None, (1, 1))
        _load(image)


def exif_orientation(image: Any) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8; 1 where it has none, or one that cannot be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data are no fault of the image
        return 1
    return orientation if orientation in _TURNS else 1


def oriented_size(size: Sequence[int], orientation: int) -> tuple[int, int]:
    """Return width and height of an image after its turn; or of what is wanted after it, before."""
    width, height = size
    return (height, width) if orientation >= _SWAPPED else (width, height)


def to_rgb(image: Any, orientation: int) -> Any:
    """Return an opened image decoded, upright, in RGB.

    Raises:
        ValueError: if it does not decode.
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
    """Return an image of any size, upright, as uint8 (height, width, 3).

    Raises:
        ValueError: if it does not decode, or is so large that it must be a decompression bomb.
    """
    with open_image(data) as image:
        return np.asarray(to_rgb(image, exif_orientation(image)))


def _load(image: Any) -> None:
    try:
        image.load()
    except Exception as error:  # a damaged image can raise anything
        raise ValueError(f"it is truncated or damaged: {error or type(error).__name__}") from error


def _unknown(pillow: Any, data: bytes) -> str:
    """What the bytes are, by their beginning, that are no image of `FORMATS`."""
    pillow.init()
    for name, (_, accepts) in sorted(pillow.OPEN.items()):
        try:
            looks = accepts is not None and accepts(data[:16]) is True
        except Exception:  # too few bytes for what looks at them
            continue
        if looks and name not in FORMATS:
            return f"an image of the format {name}, not of {', '.join(FORMATS)}; convert it"
        if looks:
            return f"a damaged {name} image in its {len(data):,} bytes"
    return f"no image in its {len(data):,} bytes"
