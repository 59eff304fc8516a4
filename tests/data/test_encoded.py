"""The sets that are kept as encoded images, and Tiny ImageNet, which is decoded once."""

import shutil

import numpy as np
import pytest
import torch

from suffice.data import encoded, folder, import_set, load
from suffice.data.formats.images import crops, decoding, packing
from tests.data import miniatures


def test_the_official_imagenet_archives_are_packed_with_classes_sorted_as_pretrained_networks_have_them(tmp_path):
    stored = import_set("imagenet", miniatures.imagenet(tmp_path / "official"), any_checksum=True)
    assert stored.manifest["parts"] == {"train": 6, "test": 4}
    assert stored.manifest["classes"] == ["n01", "n02"]
    source, labels = packing.unpack(stored, "train")
    names = [source.names[i].decode() for i in range(6)]
    assert [name.partition("_")[0] for name in names] == [stored.manifest["classes"][label] for label in labels]
    assert source.read(4) == miniatures.image_bytes((50, 40), 1)
    source, labels = packing.unpack(stored, "test")
    truth = {1: "n02", 2: "n01", 3: "n01", 4: "n02"}
    expected = [truth[int(source.names[i].decode()[15:23])] for i in range(4)]
    assert [stored.manifest["classes"][label] for label in labels] == expected
    data = load("imagenet", validation=2, size=32, workers=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 2, 4)
    ((x, y),) = data.test.batches()
    assert x.shape == (4, 3, 32, 32)
    assert y.tolist() == labels.tolist()


def test_imagenet_as_folders_is_packed_alike(tmp_path):
    for part in ("train", "val"):
        miniatures.image_folder(tmp_path / "folders" / part, ("n01", "n02"), 2)
    stored = import_set("imagenet", tmp_path / "folders")
    assert stored.manifest["parts"] == {"train": 4, "test": 4}
    assert stored.array("test_labels").tolist() == [0, 0, 1, 1]


def test_imagenet_names_the_archives_that_it_lacks(tmp_path):
    official = miniatures.imagenet(tmp_path / "official")
    (official / "ILSVRC2012_img_val.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"without ILSVRC2012_img_val.tar"):
        import_set("imagenet", official, any_checksum=True)
    with pytest.raises(ValueError, match=r"ILSVRC2012_img_train.tar with md5:1d675b47"):
        import_set("imagenet", official)


def test_strangers_in_the_imagenet_archives_are_named(tmp_path):
    official = miniatures.imagenet(tmp_path / "official")
    image = miniatures.image_bytes()
    miniatures.write_tar(official / "ILSVRC2012_img_val.tar", {"ILSVRC2012_val_00000005.JPEG": image}, "w")
    with pytest.raises(ValueError, match=r"to 00000004, once each, got ILSVRC2012_val_00000005.JPEG"):
        import_set("imagenet", official, any_checksum=True)
    miniatures.write_tar(official / "ILSVRC2012_img_train.tar", {"n77.tar": miniatures.tar_bytes({})}, "w")
    with pytest.raises(ValueError, match=r"named by the 2 classes, got n77.tar"):
        import_set("imagenet", official, any_checksum=True)


def test_caltech_takes_the_images_proper_and_names_classes_without_their_numbers(tmp_path):
    members = {
        "256_ObjectCategories/001.ak47/001_0001.jpg": miniatures.image_bytes(seed=1),
        "256_ObjectCategories/002.american-flag/002_0001.jpg": miniatures.image_bytes(seed=2),
        "256_ObjectCategories/002.american-flag/RENAME2": b"#!/bin/sh",
        "256_ObjectCategories/002.american-flag/copies/002_0001.jpg.txt": b"",
    }
    archive = miniatures.write_tar(tmp_path / "256_ObjectCategories.tar", members, "w")
    stored = import_set("caltech256", archive, any_checksum=True)
    assert stored.manifest["parts"] == {"all": 2}
    assert stored.manifest["classes"] == ["ak47", "american-flag"]


def test_an_image_that_does_not_decode_is_refused_by_its_name_or_left_out_and_counted(tmp_path, store_folder):
    good = miniatures.image_bytes()
    members = {
        "256_ObjectCategories/001.ak47/001_0001.jpg": good,
        "256_ObjectCategories/001.ak47/001_0002.jpg": good[: len(good) // 2],
        "256_ObjectCategories/001.ak47/001_0003.jpg": b"<html>",
    }
    archive = miniatures.write_tar(tmp_path / "x.tar", members, "w")
    with pytest.raises(ValueError, match=r"001_0002.jpg in .*: expected an image that decodes.*leave such records out"):
        import_set("caltech256", archive, any_checksum=True)
    assert not (store_folder / "caltech256").exists()
    stored = import_set("caltech256", archive, any_checksum=True, bad="skip")
    assert stored.manifest["parts"] == {"all": 1}
    assert stored.manifest["skipped"]["count"] == 2
    assert "001_0003.jpg" in stored.manifest["skipped"]["first"][1]


def test_the_official_tiny_imagenet_is_decoded_grey_ones_too(tmp_path):
    archive = miniatures.tiny_imagenet(tmp_path / "tiny-imagenet-200.zip")
    stored = import_set("tiny-imagenet", archive, any_checksum=True)
    assert stored.manifest["parts"] == {"train": 4, "test": 2}
    assert stored.manifest["classes"] == ["goldfish", "shark, big"]
    assert stored.array("train_labels").tolist() == [1, 0, 1, 0]
    assert stored.array("test_labels").tolist() == [1, 0]
    images = stored.array("train_images")
    assert images.shape == (4, 3, 64, 64)
    grey = images[2]
    assert (grey == grey[:1]).all()
    assert not (images[0] == images[0, :1]).all()


def test_compact_tiny_imagenet_is_one_part(tmp_path):
    (tmp_path / "tiny_imagenet").mkdir()
    images = [miniatures.image_bytes((64, 64), i) for i in range(4)]
    offset = np.cumsum([0, *(len(image) for image in images)])
    facts = {"offset": offset, "label": np.array([0, 1, 1, 0], np.uint8), "name": np.array(["a", "b"])}
    jpeg = np.frombuffer(b"".join(images), np.uint8)
    file = tmp_path / "tiny_imagenet" / "val_jpeg.npz"
    np.savez(file, jpeg=jpeg, wnid=np.array(["n1", "n2"]), **facts)
    stored = import_set("tiny-imagenet", tmp_path)
    assert stored.manifest["parts"] == {"all": 4}
    assert stored.array("all_labels").tolist() == [0, 1, 1, 0]
    np.savez(file, jpeg=jpeg // 2, wnid=np.array(["n1", "n2"]), **facts)
    with pytest.raises(ValueError, match=r"expected an image of 64×64 that decodes, got image 0 of .*val_jpeg.npz"):
        import_set("tiny-imagenet", tmp_path)


def test_a_zip_of_something_else_is_no_tiny_imagenet(tmp_path):
    archive = miniatures.write_zip(tmp_path / "x.zip", {"wnids.txt": b"n1"})
    with pytest.raises(ValueError, match=r"found wnids.txt and \{'train/': 0, 'val/images/': 0\} images"):
        import_set("tiny-imagenet", archive, any_checksum=True)


def test_a_folder_of_ones_own_is_read_in_place_or_imported_with_the_same_splits(tmp_path):
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
def test_the_middle_is_cut_out_scaled_and_standardised(tmp_path, size):
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
    ((x, y),) = kept.train.batches()
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


def test_random_cuts_stay_inside_and_are_as_large_as_they_should_be():
    boxes = [crops._random_box(300, 200, np.random.default_rng(seed)) for seed in range(500)]
    for (left, top, right, bottom), _ in boxes:
        assert 0 <= left < right <= 300.001
        assert 0 <= top < bottom <= 200.001
    areas = [(b[2] - b[0]) * (b[3] - b[1]) / 60_000 for b, _ in boxes]
    assert 0.4 < np.mean(areas) < 0.6
    assert min(areas) > 0.05
    assert 0.4 < np.mean([mirrored for _, mirrored in boxes]) < 0.6


def test_without_pillow_the_error_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'suffice\[data\]'"):
        decoding.require_pillow()


def test_packed_images_that_lost_their_end_are_refused(tmp_path):
    stored = import_set("pets", miniatures.image_folder(tmp_path / "pets"))
    file = stored.folder / "all.bin"
    shutil.copy(file, tmp_path / "copy")
    file.write_bytes((tmp_path / "copy").read_bytes()[:-100])
    with pytest.raises(ValueError, match="import pets again"):
        load("pets")


def tiny(tmp_path, **texts):
    """Tiny ImageNet with some of its texts changed."""
    import zipfile

    with zipfile.ZipFile(miniatures.tiny_imagenet(tmp_path / "whole.zip")) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, text in texts.items():
        (place,) = (member for member in members if member.endswith(f"{name}.txt"))
        members[place] = text
    return miniatures.write_zip(tmp_path / "x.zip", members)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"val_annotations": "val_0.JPEG\tn02\n"}, "expected a class of wnids.txt for val/images/…/val_1.JPEG"),
        ({"val_annotations": "val_0.JPEG\tn02\nval_1.JPEG\tn09\n"}, "val_1.JPEG in .*, got 'n09'"),
        ({"val_annotations": "val_0.JPEG n02\n"}, "line 1 of val_annotations.txt in .*: expected fields between tabs"),
        ({"wnids": "n01\n"}, "expected a class of wnids.txt for train/…/n02_0.JPEG"),
        ({"wnids": "n01\nn02\nn03\n"}, "expected images of each of 3 classes, found none of n03"),
        ({"wnids": "\n".join(f"n{i:03}" for i in range(300))}, "expected at most 256 classes in wnids.txt"),
        ({"words": "n01\tgoldfish\n"}, "expected words for each class in words.txt of .*, found none for 'n02'"),
        ({"words": b"\xff\xfe"}, "line 1 of words.txt"),
    ],
)
def test_texts_of_tiny_imagenet_that_do_not_fit_are_named(tmp_path, store_folder, texts, message):
    with pytest.raises(ValueError, match=message):
        import_set("tiny-imagenet", tiny(tmp_path, **texts), any_checksum=True)
    assert not (store_folder / "tiny-imagenet").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": np.array([0, 1, 1, 2])}, r"expected labels in \[0, 2\), got 2 at position 3 .*label of"),
        ({"label": np.array([0, 1, 1])}, "got offsets that do not fit"),
        ({"offset": np.array([0, 5, 3, 9, 12])}, "got offsets that do not fit"),
        ({"offset": np.array([-4, 5, 6, 9, 12])}, "got offsets that do not fit"),
        ({"offset": np.arange(5) * 2**60}, "got offsets that do not fit"),
        ({"jpeg": np.zeros(9)}, "expected an array of integers, got float64"),
        ({"label": None}, "expected the array label in .*val_jpeg.npz"),
    ],
)
def test_compact_tiny_imagenet_that_does_not_fit_is_named(tmp_path, changes, message):
    (tmp_path / "tiny_imagenet").mkdir()
    images = [miniatures.image_bytes((64, 64), i) for i in range(4)]
    held = {"offset": np.cumsum([0, *(len(image) for image in images)]), "label": np.array([0, 1, 1, 0], np.uint8)}
    held |= {"name": np.array(["a", "b"]), "jpeg": np.frombuffer(b"".join(images), np.uint8), **changes}
    np.savez(tmp_path / "tiny_imagenet" / "val_jpeg.npz", **{k: v for k, v in held.items() if v is not None})
    with pytest.raises(ValueError, match=message):
        import_set("tiny-imagenet", tmp_path)


def test_a_class_of_imagenet_without_images_and_a_missing_validation_image_are_named(tmp_path):
    official = miniatures.imagenet(tmp_path / "official")
    images = {f"n02_{i}.JPEG": miniatures.image_bytes((50, 40), i) for i in range(2)}
    train = official / "ILSVRC2012_img_train.tar"
    whole = train.read_bytes()
    miniatures.write_tar(train, {"n02.tar": miniatures.tar_bytes(images)}, "w")
    with pytest.raises(ValueError, match="expected images of each of 2 classes, found none of n01"):
        import_set("imagenet", official, any_checksum=True)
    train.write_bytes(whole)
    names = [f"ILSVRC2012_val_{i:08}.JPEG" for i in (1, 2, 4)]
    image = miniatures.image_bytes((50, 40), 10)
    miniatures.write_tar(official / "ILSVRC2012_img_val.tar", dict.fromkeys(names, image), "w")
    with pytest.raises(ValueError, match=r"expected 4 images in .*, found no ILSVRC2012_val_00000003.JPEG"):
        import_set("imagenet", official, any_checksum=True)


@pytest.mark.parametrize(
    ("member", "data", "message"),
    [
        ("meta.mat", b"", "expected the classes in meta.mat of .*, got a damaged one"),
        ("meta.mat", b"MATLAB 5.0 MAT-file" + bytes(200), "expected the classes in meta.mat of .*, got a damaged one"),
        ("ILSVRC2012_validation_ground_truth.txt", b"1\n2\n77\n1\n", "in line 3 of .*ground_truth.txt, got '77'"),
        ("ILSVRC2012_validation_ground_truth.txt", b"1\n\xff\n", "in line 2 of .*ground_truth.txt"),
    ],
)
def test_a_kit_of_imagenet_that_is_damaged_is_named(tmp_path, member, data, message):
    import tarfile

    kit = miniatures.imagenet(tmp_path / "official") / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(kit) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}
    (place,) = (name for name in members if name.endswith(member))
    miniatures.write_tar(kit, {**members, place: data})
    with pytest.raises(ValueError, match=message):
        import_set("imagenet", tmp_path / "official", any_checksum=True)


@pytest.mark.parametrize("name", ["002.flag/002_0001.jpg", "003.x/003_0001.jpg", "000.x/000_0001.jpg"])
def test_classes_of_caltech_that_do_not_follow_each_other_are_refused(tmp_path, name):
    names = ("001.ak47/001_0001.jpg", "001.ak48/001_0001.jpg" if name.startswith("002") else name)
    members = {f"256_ObjectCategories/{n}": miniatures.image_bytes(seed=1) for n in names}
    archive = miniatures.write_tar(tmp_path / "x.tar", members, "w")
    with pytest.raises(ValueError, match=r"expected (one class 001 in .*, got ak47 and ak48|classes 1 to)"):
        import_set("caltech256", archive, any_checksum=True)
