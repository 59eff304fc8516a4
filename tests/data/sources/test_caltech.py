import pytest

from suffice.data import import_set
from tests.data import miniatures


def test_caltech_imports_only_the_images_and_names_classes_without_their_numbers(tmp_path):
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


@pytest.mark.parametrize("name", ["002.flag/002_0001.jpg", "003.x/003_0001.jpg", "000.x/000_0001.jpg"])
def test_classes_of_caltech_that_do_not_follow_each_other_are_refused(tmp_path, name):
    names = ("001.ak47/001_0001.jpg", "001.ak48/001_0001.jpg" if name.startswith("002") else name)
    members = {f"256_ObjectCategories/{n}": miniatures.image_bytes(seed=1) for n in names}
    archive = miniatures.write_tar(tmp_path / "x.tar", members, "w")
    with pytest.raises(ValueError, match=r"expected (one class 001 in .*, got ak47 and ak48|classes 1 to)"):
        import_set("caltech256", archive, any_checksum=True)
