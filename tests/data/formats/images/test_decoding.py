"""Images of every supported format and mode, and unsupported or damaged ones."""

import io
import os
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from suffice.data.formats.images import crops, decoding
from tests.data import miniatures


def saved(image, form, **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def gradient(width=40, height=30):
    """Return an image whose red increases to the right and green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


def png16(values, color=0):
    """Return a PNG with 16 bits per value; written by hand, since Pillow does not write these in color."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF", "JPEG"])
def test_every_format_is_decoded_whatever_a_file_is_called(form):
    image = gradient()
    options = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "GIF": {}, "JPEG": {"quality": 100, "subsampling": 0}}
    found = decoding.decode_pixels(saved(Image.fromarray(image), form, **options[form]))
    tolerance = {"GIF": 40, "JPEG": 4}.get(form, 0)  # a GIF has 256 colors, a JPEG rounds
    assert np.abs(found.astype(int) - image).max() <= tolerance


@pytest.mark.parametrize("color", [0, 2, 4, 6])  # gray, color, and each with alpha
def test_sixteen_bits_become_the_upper_eight_and_are_not_clipped(color):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    values = np.arange(0, 65536, 65536 // 240, dtype=np.uint16)[:240].reshape(12, 20)
    data = png16(np.repeat(values[:, :, None], channels, axis=2), color)
    assert (decoding.decode_pixels(data) == (values >> 8)[:, :, None]).all()
    assert decoding.decode_pixels(data).shape == (12, 20, 3)


def test_grey_palette_alpha_and_single_bits_become_three_channels():
    grey = Image.fromarray(gradient()[:, :, 0])
    assert (decoding.decode_pixels(saved(grey, "PNG")) == gradient()[:, :, :1]).all()
    color = Image.fromarray(gradient())
    for alpha in (0, 100, 255):  # transparency is dropped
        layered = color.copy()
        layered.putalpha(alpha)
        for form, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
            assert (decoding.decode_pixels(saved(layered, form, **options)) == gradient()).all()
        both = Image.merge("LA", (grey, Image.new("L", grey.size, alpha)))
        assert (decoding.decode_pixels(saved(both, "PNG")) == gradient()[:, :, :1]).all()
    bits = Image.fromarray(np.eye(9, dtype=bool))
    assert (decoding.decode_pixels(saved(bits, "PNG")) == 255 * np.eye(9, dtype=np.uint8)[:, :, None]).all()
    palette = color.quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    assert (decoding.decode_pixels(saved(palette, "PNG")) == expected).all()
    for transparency in (3, bytes(range(16))):
        assert (decoding.decode_pixels(saved(palette, "PNG", transparency=transparency)) == expected).all()
    assert (decoding.decode_pixels(saved(color, "PNG", transparency=(255, 0, 0))) == gradient()).all()
    assert (decoding.decode_pixels(saved(grey, "PNG", transparency=7)) == gradient()[:, :, :1]).all()
    assert (
        decoding.decode_pixels(saved(bits, "PNG", transparency=0)) == 255 * np.eye(9, dtype=np.uint8)[:, :, None]
    ).all()


def test_printing_colors_become_those_of_light():
    data = saved(Image.fromarray(gradient()).convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert np.abs(decoding.decode_pixels(data).astype(int) - gradient()).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_turned_upright(orientation, form):
    upright = gradient(60, 30)
    undone = {  # how a camera in this orientation stores the image
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}[form]
    data = saved(Image.fromarray(np.ascontiguousarray(undone)), form, exif=exif, **options)
    found = decoding.decode_pixels(data)
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() <= (4 if form == "JPEG" else 0)
    plain = saved(Image.fromarray(upright), form, **options)
    for draw in (None, 5):
        a, b = (crops.decode_crop(data, 16, draw).astype(int) for data in (data, plain))
        assert np.abs(a - b).max() <= (6 if form == "JPEG" else 0)  # the blocks of a rotated JPEG differ


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # raised by Pillow
@pytest.mark.parametrize("exif", [b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0"])
def test_an_image_whose_exif_data_are_damaged_is_taken_as_it_is(exif):
    data = saved(Image.fromarray(gradient()), "JPEG", quality=100, subsampling=0, exif=exif)
    assert np.abs(decoding.decode_pixels(data).astype(int) - gradient()).max() <= 4


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_several_frames_it_is_the_first(form):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert (decoding.decode_pixels(data) == [255, 0, 0]).all()


def test_of_several_pictures_in_a_jpeg_it_is_the_first():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert np.abs(decoding.decode_pixels(data).astype(int) - [255, 0, 0]).max() <= 4


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) (w) file\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """Install a program of that name that records whether it was run."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return tmp_path / "ran"


def test_an_eps_runs_nothing_and_is_named(ghostscript):
    with Image.open(io.BytesIO(EPS)) as image, pytest.raises(Exception):  # noqa: B017, PT011
        image.load()
    assert ghostscript.exists()  # it would have been run
    ghostscript.unlink()
    for decode in (decoding.decode_pixels, decoding.open_image, lambda data: crops.decode_crop(data, 8, None)):
        with pytest.raises(ValueError, match="image of the format EPS, not of JPEG, PNG, WEBP, BMP, GIF; convert it"):
            decode(EPS)
    assert not ghostscript.exists()


@pytest.mark.parametrize("form", ["TIFF", "ICO", "PPM", "TGA", "PCX", "ICNS", "JPEG2000", "PDF", "SGI", "DDS"])
def test_other_formats_are_refused(form):
    try:
        data = saved(Image.fromarray(gradient(32, 32)), form)
    except (OSError, KeyError):
        pytest.skip(f"this Pillow does not write {form}")
    with pytest.raises(ValueError, match=r"an image of the format|no image in its"):
        decoding.decode_pixels(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no image in its 0 bytes"),
        (b"<html>not found</html>", "no image in its 22 bytes"),
        (b"\xff\xd8\xff", "damaged JPEG image|it is damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged PNG image"),
        (b"GIF89a", "damaged GIF image"),
        (b"BM" + bytes(10), "damaged BMP image|it is damaged"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image in its"),
        (b"RIFF\x04\x00\x00\x00WEBPVP8 ", "damaged"),
    ],
)
def test_what_is_no_image_is_said_to_be_none(data, message):
    with pytest.raises(ValueError, match=message):
        decoding.decode_pixels(data)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF", "JPEG"])
def test_a_truncated_image_is_refused(form):
    data = saved(Image.fromarray(miniatures.rng().integers(0, 256, (80, 90, 3), dtype=np.uint8)), form)
    for keep in (0.1, 0.5, 0.9):
        cut = data[: int(len(data) * keep)]
        with pytest.raises(ValueError, match=r"truncated|damaged|no image"):
            decoding.decode_pixels(cut)
        with pytest.raises(ValueError, match=r"truncated|damaged|no image"):
            decoding.check_decodes(decoding.open_image(cut))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (65_000, 7)])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_images_of_any_shape_come_out_square(size, form):
    data = saved(Image.new("RGB", size, (200, 10, 10)), form, **({"quality": 100} if form == "JPEG" else {}))
    for draw in (None, 0, 1, 2, 3):
        image = crops.decode_crop(data, 16, draw)
        assert image.shape == (3, 16, 16)
        assert np.abs(image.astype(int) - np.array([200, 10, 10])[:, None, None]).max() <= 4


def fuzz(count, seed):
    """Change random bytes of images, and check that each is decoded or raises a ValueError; count the errors."""
    draw = random.Random(seed)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(gradient())
    wholes = [saved(image, form, exif=exif) for form in ("JPEG", "PNG", "WEBP")]
    wholes += [saved(image, "BMP"), saved(image, "GIF"), saved(image.quantize(9), "PNG", transparency=2)]
    wholes += [saved(image.convert("CMYK"), "JPEG", progressive=True), png16(gradient()[:, :, 0] * np.uint16(257))]
    refused = 0
    for _ in range(count):
        data = bytearray(draw.choice(wholes))
        for _ in range(draw.choice([1, 3, 20])):
            data[draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(60)] = draw.randrange(256)
        data = bytes(data[: draw.choice([len(data), draw.randrange(1, len(data))])])
        try:
            decoding.check_decodes(decoding.open_image(data))
            assert crops.decode_crop(data, 8, draw.choice([None, 7])).shape == (3, 8, 8)
        except ValueError:
            refused += 1
    return refused


@pytest.mark.filterwarnings("ignore")  # Pillow warns about the damaged contents
def test_changed_images_are_decoded_or_refused_and_nothing_else():
    assert 300 < fuzz(1500, seed=0) < 1500


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_very_many_changed_images_are_decoded_or_refused_and_nothing_else():
    assert fuzz(100_000, seed=1) > 0


MEASURED = """
import sys
from pathlib import Path
import numpy as np
from suffice.data import import_set
from suffice.data.formats.images import decoding
def peak():
    return int([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]) // 1024
decoding.decode_pixels(Path(sys.argv[1], "a", "0.png").read_bytes())  # load Pillow and decode one image
before = peak()
import_set("pets", sys.argv[1])
print(before, peak())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "form", ["PNG", *(pytest.param(form, marks=pytest.mark.slow) for form in ("WEBP", "progressive JPEG"))]
)
def test_many_large_photographs_are_imported_within_a_bound(tmp_path, form):
    image = Image.new("RGB", (4000, 3000), (1, 2, 3))  # 12 megapixels, 48 MB each once decoded
    data = saved(image, form) if form != "progressive JPEG" else saved(image, "JPEG", progressive=True)
    for name in ("a", "b"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for place in range(8):
            (tmp_path / "pets" / name / f"{place}.png").write_bytes(data)
    environment = {**os.environ, "SUFFICE_DATA": str(tmp_path / "store")}
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "pets")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before < 256 + 100  # the limit of images in memory, and one image above it
