import gzip
import lzma

import numpy as np
import pytest
import torch

from suffice.data import import_set, load
from suffice.data.sources.emnist import CLASSES
from tests.data import miniatures


@pytest.mark.parametrize("split", list(CLASSES))
def test_each_official_split_comes_out_upright_and_labelled_from_zero(tmp_path, split):
    classes = len(CLASSES[split])
    first = 1 if split == "letters" else 0
    archive, upright = miniatures.emnist(tmp_path / "gzip.zip", split, classes, first)
    stored = import_set(f"emnist-{split}", archive, any_checksum=True)
    assert stored.manifest["parts"] == {"train": 100, "test": 50}
    for part, (images, labels) in upright.items():
        assert (stored.array(f"{part}_images")[:, 0] == images).all()
        assert stored.array(f"{part}_labels").tolist() == (labels - first).tolist()
    assert len(stored.manifest["classes"]) == classes


def test_classes_are_those_of_the_paper():
    assert {split: len(names) for split, names in CLASSES.items()} == {
        "byclass": 62,
        "bymerge": 47,
        "balanced": 47,
        "letters": 26,
        "digits": 10,
    }
    merged = set("cijklmopsuvwxyz")
    assert set(CLASSES["byclass"]) - set(CLASSES["bymerge"]) == merged


def test_unpacked_idx_files_in_a_folder_are_read_too(tmp_path):
    import zipfile

    archive, upright = miniatures.emnist(tmp_path / "gzip.zip", "digits", 10)
    (tmp_path / "f").mkdir()
    with zipfile.ZipFile(archive) as members:
        for place, name in enumerate(members.namelist()):
            data = members.read(name)
            packed = place % 2 == 0
            file = tmp_path / "f" / name.removeprefix("gzip/").removesuffix("" if packed else ".gz")
            file.write_bytes(data if packed else gzip.decompress(data))
    stored = import_set("emnist-digits", tmp_path / "f")
    assert (stored.array("test_images")[:, 0] == upright["test"][0]).all()


def compact(folder, count=100):
    folder.mkdir(parents=True)
    images = miniatures.rng().integers(0, 256, (count, 28, 28), dtype=np.uint8)
    with lzma.open(folder / "byclass_test_images.npy.xz", "wb") as file:
        np.save(file, images)
    labels = np.arange(count, dtype=np.uint8)
    names = {f"names{len(CLASSES[s])}": np.array(list(CLASSES[s])) for s in ("byclass", "bymerge")}
    np.savez(folder / "byclass_test_labels.npz", label62=labels % 62, label47=labels % 47, **names)
    return images


def test_compact_files_become_one_part_that_is_split_in_three(tmp_path):
    images = compact(tmp_path / "emnist", 470)
    stored = import_set("emnist-bymerge", tmp_path)
    assert stored.manifest["parts"] == {"all": 470}
    assert (stored.array("all_images")[:, 0] == images).all()
    data = load("emnist-bymerge")
    assert (len(data.train), len(data.validation), len(data.test)) == (376, 47, 47)
    assert torch.bincount(data.test.labels).tolist() == [1] * 47
    assert data.train.augment is None


def test_compact_files_do_not_hold_the_other_splits(tmp_path):
    compact(tmp_path / "emnist")
    with pytest.raises(ValueError, match=r"only the test part of these: pass the official gzip.zip"):
        import_set("emnist-letters", tmp_path)


def test_a_truncated_compact_file_is_refused(tmp_path):
    compact(tmp_path / "emnist")
    file = tmp_path / "emnist" / "byclass_test_images.npy.xz"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"truncated or damaged .*npy.xz"):
        import_set("emnist-byclass", tmp_path)


def damaged(tmp_path, name, change):
    """Write an official zip with one member changed."""
    archive, _ = miniatures.emnist(tmp_path / "gzip.zip", "digits", 10)
    import zipfile

    with zipfile.ZipFile(archive) as members:
        found = {n: members.read(n) for n in members.namelist()}
    found[name] = change(found[name])
    return miniatures.write_zip(tmp_path / "damaged.zip", {n: data for n, data in found.items() if data is not None})


LABELS, IMAGES = "gzip/emnist-digits-train-labels-idx1-ubyte.gz", "gzip/emnist-digits-test-images-idx3-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (IMAGES, lambda data: data[:-3000], "truncated or damaged .*test-images"),
        (IMAGES, lambda data: gzip.compress(gzip.decompress(data)[:-784]), "expected 50 rows in test_images, got 49"),
        (IMAGES, lambda data: gzip.compress(b"12"), "expected an idx header, got 2 bytes"),
        (IMAGES, lambda data: gzip.compress(b"\x00" * 16), "idx file of kind 0x0803, got 0x0000"),
        (IMAGES, lambda data: None, "found no emnist-digits-test-images"),
        (LABELS, lambda data: gzip.compress(miniatures.idx(np.full(100, 10, np.uint8))), r"in \[0, 10\), got 10"),
        (LABELS, lambda data: gzip.compress(miniatures.idx(np.zeros(99, np.uint8))), "a label for each image"),
        (LABELS, lambda data: gzip.compress(gzip.decompress(data) + bytes(10**7)), "decompression bomb"),
    ],
)
def test_damage_is_one_clear_message_and_nothing_is_written(tmp_path, store_folder, name, change, message):
    archive = damaged(tmp_path, name, change)
    with pytest.raises(ValueError, match=message):
        import_set("emnist-digits", archive, any_checksum=True)
    assert list(store_folder.iterdir()) == []


def test_labels_are_counted_from_one_in_letters_and_none_is_before(tmp_path):
    archive, _ = miniatures.emnist(tmp_path / "gzip.zip", "letters", 26, first=0)
    with pytest.raises(ValueError, match=r"expected labels in \[0, 26\), got -1 at position 0 .*counted from 1"):
        import_set("emnist-letters", archive, any_checksum=True)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (IMAGES, lambda data: gzip.compress(gzip.decompress(data) + b"x"), "no data after the last image, got more"),
        (IMAGES, lambda data: gzip.compress(gzip.decompress(data)[:-7]), "expected 50 rows in test_images, got 49"),
        (IMAGES, lambda data: data[:-4] + b"\xff" * 4, "truncated or damaged .*test-images"),
        (LABELS, lambda data: gzip.compress(b"\0\0\x08\x01\xff\xff\xff\xff"), "2,000,000 rows, got 4,294,967,295"),
        (LABELS, lambda data: gzip.compress(miniatures.idx(np.full(100, 255, np.uint8))), "got 255 at position 0"),
        (LABELS, lambda data: gzip.compress(gzip.decompress(data)[:-1]), "a label for each of 100 images, got 99"),
    ],
)
def test_lengths_and_labels_are_held_to_the_header(tmp_path, store_folder, name, change, message):
    with pytest.raises(ValueError, match=message):
        import_set("emnist-digits", damaged(tmp_path, name, change), any_checksum=True)
    assert not (store_folder / "emnist-digits").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label47": np.arange(100) - 1}, r"expected labels in \[0, 47\), got -1 at position 0 .* in label47 of"),
        ({"label47": np.arange(100) % 47 + 0.5}, "expected an array of integers, got float64"),
        ({"label47": np.arange(99) % 47}, "expected 99 images of 28×28 bytes"),
        ({"names47": np.array(["a"])}, "expected classes 0123"),
    ],
)
def test_compact_labels_that_do_not_fit_are_named(tmp_path, changes, message):
    compact(tmp_path / "emnist")
    file = tmp_path / "emnist" / "byclass_test_labels.npz"
    with np.load(file) as arrays:
        held = {**arrays, **changes}
    np.savez(file, **held)
    with pytest.raises(ValueError, match=message):
        import_set("emnist-bymerge", tmp_path)


def test_compact_images_that_are_no_array_or_go_on_are_named(tmp_path):
    images = compact(tmp_path / "emnist")
    file = tmp_path / "emnist" / "byclass_test_images.npy.xz"
    file.write_bytes(lzma.compress(b"<html>"))
    with pytest.raises(ValueError, match=r"expected an array in NumPy's format, got .*npy.xz"):
        import_set("emnist-byclass", tmp_path)
    with lzma.open(file, "wb") as stream:
        np.save(stream, images)
        stream.write(b"more")
    with pytest.raises(ValueError, match=r"no data after the last image, got more in .*npy.xz"):
        import_set("emnist-byclass", tmp_path)
