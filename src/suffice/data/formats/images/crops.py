"""Decode an image to a square crop: the center for evaluation, a random crop for training (Szegedy et al. 2015)."""

import numpy as np

from suffice.data.formats.images import decoding
from suffice.data.store.dataset import Array

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

_ASPECT = (3 / 4, 4 / 3)
"""Range of the aspect ratio of a random crop."""
_AREA = (0.08, 1.0)
"""Range of the area of a random crop, as a fraction of the image."""


def decode_crop(data: bytes, size: int, seed: int | None) -> Array:
    """Decode an image to a square crop, uint8 (3, size, size).

    Args:
        data: Encoded image.
        size: Height and width of the result, in pixels.
        seed: Seed of a random crop, which is mirrored with probability 1/2; None: the center crop.

    Raises:
        ValueError: If the image does not decode, or is too large (a decompression bomb).
    """
    pillow = decoding.require_pillow()
    with decoding.open_image(data) as image:
        orientation = decoding.exif_orientation(image)
        upright = decoding.oriented_size(image.size, orientation)
        if seed is None:
            box, mirrored = _center_box(*upright), False
        else:
            box, mirrored = _random_box(*upright, np.random.default_rng(seed))
        wanted = [int(side * size / cut) for side, cut in zip(upright, (box[2] - box[0], box[3] - box[1]), strict=True)]
        image.draft(None, decoding.oriented_size(wanted, orientation))
        picture = decoding.to_rgb(image, orientation)
    scale = [now / before for now, before in zip(picture.size, upright, strict=True)]  # 1/2, 1/4 or 1/8 for some JPEGs
    box = (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
    square = picture.resize((size, size), pillow.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    pixels = np.asarray(square).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[:, :, ::-1] if mirrored else pixels)


def _center_box(width: int, height: int) -> Box:
    """Return the centered square whose side is 7/8 of the short side."""
    side = min(width, height) * 7 / 8
    return _box((width - side) / 2, (height - side) / 2, side, side)


def _random_box(width: int, height: int, generator: np.random.Generator) -> tuple[Box, bool]:
    """Return a crop of random area and aspect ratio, and whether to mirror it."""
    area = width * height * generator.uniform(*_AREA)
    aspect = np.exp(generator.uniform(*np.log(_ASPECT)))
    crop_width = min(float(np.sqrt(area * aspect)), width)
    crop_height = min(float(np.sqrt(area / aspect)), height)
    left, top = generator.uniform(0, width - crop_width), generator.uniform(0, height - crop_height)
    return _box(left, top, crop_width, crop_height), bool(generator.random() < 0.5)


def _box(left: float, top: float, width: float, height: float) -> Box:
    return left, top, left + width, top + height
