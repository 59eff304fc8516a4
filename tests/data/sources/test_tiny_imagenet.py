import numpy as np
import pytest

from suffice.data import import_set
from tests.data import miniatures


def test_the_official_tiny_imagenet_is_decoded_gray_images_too(tmp_path):
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


def tiny(tmp_path, **texts):
    """Write Tiny ImageNet with some of its text files replaced."""
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
