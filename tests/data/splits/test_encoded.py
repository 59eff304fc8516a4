"""Splits of encoded images: from a folder in place, or imported."""

import numpy as np
import pytest
import torch

from suffice.data import folder, import_set, load
from suffice.data.formats.images import decoding
from suffice.data.splits import encoded
from tests.data import miniatures


def test_a_folder_of_images_is_read_in_place_or_imported_with_the_same_splits(tmp_path):
    place = miniatures.image_folder(tmp_path / "pets", count=10)
    there = folder(place, validation=4, test=2, seed=3, size=16, workers=0)
    import_set("pets", place)
    here = load("pets", validation=4, test=2, seed=3, size=16, workers=0)
    assert there.split == here.split
    assert there.classes == here.classes == ("cat", "dog")
    assert repr(there.validation) == repr(here.validation) == "EncodedImages(4 of (3, 16, 16), workers=0, skip=False)"
    for a, b in zip(there.validation.batches(3), here.validation.batches(3), strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def test_a_folder_with_a_test_part_keeps_it(tmp_path):
    for part in ("train", "test"):
        miniatures.image_folder(tmp_path / "pets" / part, count=4)
    data = folder(tmp_path / "pets", validation=2, size=16, workers=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 8)
    (tmp_path / "pets" / "test" / "bird").mkdir()
    with pytest.raises(ValueError, match="expected folders among the 2 classes, got bird"):
        folder(tmp_path / "pets")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected images in .*<class>/, found none"):
        folder(tmp_path)


@pytest.mark.parametrize("size", [24, 8])  # for 8 a JPEG is scaled by 1/4 while it is decoded
def test_the_center_is_cropped_scaled_and_standardized(tmp_path, size):
    from PIL import Image

    place = miniatures.image_folder(tmp_path / "pets")
    pets = folder(place, validation=4, test=2, size=size, workers=0)
    ((x, _),) = pets.validation.batches()
    for image, row in zip(x, pets.validation.rows, strict=True):
        with Image.open(pets.validation.source.paths[int(row)]) as opened:
            side = 40 * 7 / 8
            box = ((60 - side) / 2, (40 - side) / 2, (60 + side) / 2, (40 + side) / 2)
            expected = opened.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box)
        pixels = torch.from_numpy(np.asarray(expected).copy()).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in (encoded.MEAN, encoded.STD))
        assert ((pixels - mean) / std - image).abs().mean() < (0.02 if size == 24 else 0.1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than processors are allowed
@pytest.mark.parametrize("workers", [0, 2])
def test_a_seed_gives_the_same_epochs_whatever_the_number_of_workers(tmp_path, workers):
    data = folder(miniatures.image_folder(tmp_path / "pets"), validation=2, test=2, size=24, workers=workers)
    loader = data.train.shuffled(4, generator=torch.Generator().manual_seed(1))
    first, second = list(loader), list(loader)
    assert [len(y) for _, y in first] == [4, 2]
    assert not torch.equal(first[0][0], second[0][0])
    expected = folder(tmp_path / "pets", validation=2, test=2, size=24, workers=0)
    again = list(expected.train.shuffled(4, generator=torch.Generator().manual_seed(1)))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_was_damaged_later_is_named_by_the_worker_or_left_out(tmp_path, workers):
    place = miniatures.image_folder(tmp_path / "pets")
    (place / "cat" / "2.jpg").write_bytes(b"not an image")
    data = folder(place, validation=0, test=0, size=16, workers=workers)
    with pytest.raises(ValueError, match=r"^expected an image that decodes, got .*cat/2.jpg: no image in its 12 bytes"):
        list(data.train.batches())
    kept = folder(place, validation=0, test=0, size=16, workers=workers, skip=True)
    ((x, y),) = kept.train.batches(shuffle=False)
    assert len(x) == 9
    assert y.tolist() == [0] * 4 + [1] * 5


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    import io

    from PIL import Image

    for width in (9000, 10_000, 14_000, 20_000):  # beyond our limit, Pillow's warning and Pillow's error
        buffer = io.BytesIO()
        Image.new("1", (width, width)).save(buffer, "PNG")
        with pytest.raises(ValueError, match="refused"):
            decoding.open_image(buffer.getvalue())


def test_without_pillow_the_error_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'suffice\[data\]'"):
        decoding.require_pillow()
