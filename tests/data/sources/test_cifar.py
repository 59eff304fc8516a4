import os
import pickle

import numpy as np
import pytest
import torch

from suffice.data import import_set, load
from tests.data import miniatures


def test_the_official_cifar10_archive_gives_its_images_in_their_order(tmp_path):
    archive, batches = miniatures.cifar10(tmp_path / "cifar-10-python.tar.gz")
    stored = import_set("cifar10", archive, any_checksum=True)
    assert stored.manifest["parts"] == {"train": 20, "test": 4}
    expected = np.concatenate([batches[f"data_batch_{i}"][b"data"] for i in range(1, 6)]).reshape(-1, 3, 32, 32)
    assert (stored.array("train_images") == expected).all()
    assert stored.array("test_labels").tolist() == [0, 1, 2, 3]
    assert stored.manifest["classes"][9] == "class 9"


def test_the_official_cifar100_archive_is_split_and_standardised(tmp_path):
    archive, parts = miniatures.cifar100(tmp_path / "cifar-100-python.tar.gz")
    stored = import_set("cifar100", archive, any_checksum=True)
    assert stored.array("train_coarse").tolist() == parts["train"][b"coarse_labels"]
    data = load("cifar100", validation=100)
    assert (len(data.train), len(data.validation), len(data.test)) == (100, 100, 200)
    assert torch.bincount(data.validation.labels).tolist() == [1] * 100
    x = torch.cat([x for x, _ in data.train.batches()])
    assert x.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (x.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-4
    assert data.classes[7] == "fine 7"
    pixels = torch.from_numpy(parts["test"][b"data"].reshape(-1, 3, 32, 32))
    assert torch.equal(data.test.images, pixels)


def test_the_folder_that_the_archive_unpacks_to_is_read_too(tmp_path):
    import tarfile

    archive, parts = miniatures.cifar100(tmp_path / "cifar-100-python.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    stored = import_set("cifar100", tmp_path / "unpacked")
    assert stored.array("test_labels").tolist() == parts["test"][b"fine_labels"]


def test_compact_mosaics_give_their_tiles_row_by_row(tmp_path):
    images = miniatures.compact_cifar100(tmp_path / "cifar100")
    for source in (tmp_path, tmp_path / "cifar100"):
        stored = import_set("cifar100", source)
        assert (stored.array("train_images") == images[:20]).all()
        assert (stored.array("test_images") == images[20:]).all()
        assert stored.array("test_labels").tolist() == [20, 21, 22, 23]
    assert "sorted by class" in stored.manifest["notes"][0]


def test_a_file_of_another_checksum_is_refused_before_it_is_read(tmp_path, store_folder):
    archive, _ = miniatures.cifar100(tmp_path / "cifar-100-python.tar.gz")
    with pytest.raises(ValueError, match=r"with sha256:85cd44d0[0-9a-f]*, got sha256:[0-9a-f]{64} \(.* bytes\)"):
        import_set("cifar100", archive)
    assert not store_folder.exists()


@pytest.mark.parametrize("name", ["renamed.tar.gz", "cifar-100-python.tar.gz"])
def test_a_renamed_archive_does_not_escape_its_checksum(tmp_path, name):
    archive, _ = miniatures.cifar100(tmp_path / name)
    with pytest.raises(ValueError, match="sha256:85cd44d0"):
        import_set("cifar100", archive)


class Exploit:
    def __reduce__(self):
        return os.system, ("echo exploited > exploited",)


def test_a_forged_pickle_runs_nothing(tmp_path, monkeypatch, store_folder):
    monkeypatch.chdir(tmp_path)
    forged = {f"x/{name}": pickle.dumps({b"data": Exploit()}, protocol=2) for name in ("train", "test", "meta")}
    archive = miniatures.write_tar(tmp_path / "x.tar.gz", forged)
    with pytest.raises(ValueError, match=r"posix.system; refused"):
        import_set("cifar100", archive, any_checksum=True)
    assert not (tmp_path / "exploited").exists()
    assert not (store_folder / "cifar100").exists()


def test_a_damaged_pickle_and_a_missing_one_are_named(tmp_path):
    _, parts = miniatures.cifar100(tmp_path / "whole.tar.gz")
    train = pickle.dumps(parts["train"], protocol=2)
    damaged = miniatures.write_tar(tmp_path / "damaged.tar.gz", {"x/train": train[:5000]})
    with pytest.raises(ValueError, match="expected pickled arrays, got x/train"):
        import_set("cifar100", damaged, any_checksum=True)
    lacking = miniatures.write_tar(tmp_path / "lacking.tar.gz", {"x/train": train})
    with pytest.raises(ValueError, match="found no meta, test"):
        import_set("cifar100", lacking, any_checksum=True)


def test_labels_that_are_too_few_are_refused(tmp_path):
    _, parts = miniatures.cifar100(tmp_path / "whole.tar.gz")
    parts["train"][b"fine_labels"].pop()
    members = {f"x/{part}": pickle.dumps(value, protocol=2) for part, value in parts.items()}
    members["x/meta"] = pickle.dumps({b"fine_label_names": [], b"coarse_label_names": []}, protocol=2)
    with pytest.raises(ValueError, match="a label for each of 200 images, got 199 in fine_labels of x/train"):
        import_set("cifar100", miniatures.write_tar(tmp_path / "x.tar.gz", members), any_checksum=True)


def test_a_truncated_archive_is_refused(tmp_path):
    archive, _ = miniatures.cifar100(tmp_path / "x.tar.gz")
    archive.write_bytes(archive.read_bytes()[:200_000])
    with pytest.raises(ValueError, match="truncated or damaged"):
        import_set("cifar100", archive, any_checksum=True)


def test_a_damaged_mosaic_is_named(tmp_path):
    miniatures.compact_cifar100(tmp_path / "cifar100")
    file = tmp_path / "cifar100" / "train_3.webp"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"mosaic of images, got .*train_3.webp"):
        import_set("cifar100", tmp_path)


def forged(tmp_path, part, **changes):
    """Write the archive of CIFAR-100 with keys of one pickle replaced, or removed if None."""
    _, parts = miniatures.cifar100(tmp_path / "whole.tar.gz")
    fine, coarse = ([f"{what} {i}".encode() for i in range(n)] for what, n in (("fine", 100), ("coarse", 20)))
    parts["meta"] = {b"fine_label_names": fine, b"coarse_label_names": coarse}
    for key, value in changes.items():
        parts[part][key.encode()] = value
    members = {
        f"x/{name}": pickle.dumps({k: v for k, v in value.items() if v is not None}, protocol=2)
        for name, value in parts.items()
    }
    return miniatures.write_tar(tmp_path / "x.tar.gz", members)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("train", {"fine_labels": [100] * 200}, r"expected labels in \[0, 100\), got 100 at position 0 and 199 others"),
        ("test", {"coarse_labels": [-1] * 200}, r"expected labels in \[0, 20\), got -1 .* coarse_labels of x/test"),
        ("train", {"fine_labels": list(range(1, 101)) * 2}, "they seem to start at 1"),
        ("train", {"coarse_labels": [0] * 199}, "a label for each of 200 images, got 199 in coarse_labels of x/train"),
        ("train", {"fine_labels": [b"0"] * 200}, "expected whole numbers as labels"),
        ("train", {"fine_labels": b"0" * 200}, "expected fine_labels in x/train"),
        ("train", {"fine_labels": None}, "expected fine_labels in x/train .*, found none of type list"),
        ("train", {"data": None}, "expected data in x/train"),
        ("train", {"data": b"0" * 3072 * 200}, "expected data in x/train"),
        ("train", {"data": np.zeros((200, 3072), np.int8)}, "an array of another type than bytes; refused"),
        ("train", {"data": np.zeros((200, 1024), np.uint8)}, r"an array of \(200, 1024\) .* not of \(n, 3072\)"),
        ("meta", {"fine_label_names": [b"a"]}, "expected 100 names in fine_label_names of x/meta .*, got 1"),
        ("meta", {"coarse_label_names": [1] * 20}, "expected 20 names in coarse_label_names"),
    ],
)
def test_invalid_pickles_are_named_and_nothing_is_written(tmp_path, store_folder, part, changes, message):
    archive = forged(tmp_path, part, **changes)
    with pytest.raises(ValueError, match=message):
        import_set("cifar100", archive, any_checksum=True)
    assert not (store_folder / "cifar100").exists()


def test_two_files_of_one_name_are_refused_by_both(tmp_path):
    _, parts = miniatures.cifar100(tmp_path / "whole.tar.gz")
    data = pickle.dumps(parts["train"], protocol=2)
    archive = miniatures.write_tar(tmp_path / "x.tar.gz", {"a/train": data, "b/train": data})
    with pytest.raises(ValueError, match=r"expected one train in .*, got a/train and b/train"):
        import_set("cifar100", archive, any_checksum=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": np.arange(20) + 90}, r"in \[0, 100\), got 100 at position 10 .* train of .*labels.npz"),
        ({"train_coarse": np.arange(19) // 5}, "a label for each of 20 images, got 19 in train_coarse"),
        ({"test": np.arange(4) * 1.0}, "expected an array of integers, got float64"),
        ({"test": np.arange(3), "test_coarse": np.arange(3)}, "expected .*3, 3, 32, 32"),
    ],
)
def test_compact_labels_that_do_not_fit_are_named(tmp_path, changes, message):
    miniatures.compact_cifar100(tmp_path / "cifar100")
    file = tmp_path / "cifar100" / "labels.npz"
    with np.load(file) as arrays:
        held = {**arrays, **changes}
    np.savez(file, **held)
    with pytest.raises(ValueError, match=message):
        import_set("cifar100", tmp_path)


def test_a_mosaic_of_another_size_is_named(tmp_path):
    from PIL import Image

    miniatures.compact_cifar100(tmp_path / "cifar100")
    Image.new("RGB", (65, 64)).save(tmp_path / "cifar100" / "test.webp")
    with pytest.raises(ValueError, match=r"mosaic of images of 32×32 pixels, got 65×64 in .*test.webp"):
        import_set("cifar100", tmp_path)
