import os

import numpy as np
import pytest
from PIL import Image

from suffice.data import folder, import_set, load
from suffice.data.formats.images import folders
from suffice.data.store.bad_records import BadRecords
from tests.data import miniatures

LITTER = (".DS_Store", "._0.jpg", "Thumbs.db", "desktop.ini", "@eaDir/0.jpg/SYNO.jpg", ".git/x.jpg", "__MACOSX/._0.jpg")


def pets(tmp_path, **options):
    return miniatures.image_folder(tmp_path / "pets", **options)


def both(place, **choices):
    """Return the images of a folder, after checking that reading in place and importing agree."""
    here = folder(place, validation=0, test=0, size=8, workers=0, **choices)
    stored = import_set("pets", place, bad="skip" if choices.get("skip") else "refuse")
    there = load("pets", validation=0, test=0, size=8, workers=0)
    assert here.classes == there.classes
    assert here.train.labels.tolist() == there.train.labels.tolist()
    return stored, here


def test_hidden_files_and_what_systems_leave_are_passed_over(tmp_path):
    place = pets(tmp_path)
    for name in LITTER:
        for start in (place, place / "cat"):
            (start / name).parent.mkdir(parents=True, exist_ok=True)
            (start / name).write_bytes(b"Mac OS X")
    stored, data = both(place)
    assert len(data.train) == 10
    assert data.classes == ("cat", "dog")
    assert "notes" not in stored.manifest


def test_files_that_are_no_images_are_named_in_a_note(tmp_path):
    place = pets(tmp_path)
    for name in ("README.md", "cat/labels.csv", "dog/0"):
        (place / name).write_text("x")
    stored, data = both(place)
    assert len(data.train) == 10
    (note,) = stored.manifest["notes"]
    assert note == "not read: 3 that are no images by their names, such as README.md, cat/labels.csv, dog/0"


def test_what_lies_beside_the_parts_is_named_too(tmp_path):
    for part in ("train", "val", "test"):
        miniatures.image_folder(tmp_path / "pets" / part, count=2)
    stored = import_set("pets", tmp_path / "pets")
    assert stored.manifest["parts"] == {"train": 4, "test": 4}
    assert "such as val" in stored.manifest["notes"][0]


@pytest.mark.parametrize("name", ["x.tif", "x.tiff", "x.heic", "x.svg", "x.ico", "X.TIFF"])
def test_an_image_of_another_format_is_refused_by_name_and_not_passed_over(tmp_path, name):
    place = pets(tmp_path)
    (place / "cat" / name).write_bytes(b"x")
    message = rf"pets/cat/{name}: expected an image of JPEG, PNG, WEBP, BMP, GIF, got \.(?i:{name[2:]})"
    with pytest.raises(ValueError, match=rf"{message}; leave such records out with `--bad skip`"):
        import_set("pets", place)
    with pytest.raises(ValueError, match=rf"{message}; leave such records out with skip=True"):
        folder(place)
    stored, data = both(place, skip=True)
    assert len(data.train) == 10
    assert stored.manifest["skipped"]["count"] == 1


@pytest.mark.parametrize("left", [None, "README.md", ".DS_Store"])
def test_a_class_without_images_is_named(tmp_path, left):
    place = pets(tmp_path)
    (place / "bird").mkdir()
    if left:
        (place / "bird" / left).write_text("x")
    with pytest.raises(ValueError, match="expected images of each of 3 classes, found none of bird"):
        import_set("pets", place)
    with pytest.raises(ValueError, match=r"found none of bird; leave such records out with skip=True"):
        folder(place)
    stored, data = both(place, skip=True)
    assert data.classes == ("bird", "cat", "dog")
    assert "found none of bird" in stored.manifest["skipped"]["first"][0]


def test_a_class_of_which_no_image_decodes_is_named(tmp_path):
    place = pets(tmp_path, count=2)
    for name in ("0.jpg", "1.jpg"):
        (place / "dog" / name).write_bytes(b"<html>")
    stored = import_set("pets", place, bad="skip")
    assert stored.manifest["skipped"]["count"] == 3
    assert "found none of dog" in stored.manifest["skipped"]["first"][2]


def test_a_part_that_lacks_a_class_is_named(tmp_path):
    for part in ("train", "test"):
        miniatures.image_folder(tmp_path / "pets" / part, count=2)
    for file in (tmp_path / "pets" / "test" / "dog").iterdir():
        file.unlink()
    (tmp_path / "pets" / "test" / "dog").rmdir()
    with pytest.raises(ValueError, match=r"pets/test: expected images of each of 2 classes, found none of dog"):
        import_set("pets", tmp_path / "pets")


def test_an_eps_named_as_an_image_is_refused_by_name(tmp_path):
    place = pets(tmp_path)
    (place / "cat" / "cat.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ValueError, match=r"cat/cat.png in .*: expected .*, got an image of the format EPS"):
        import_set("pets", place)
    data = folder(place, validation=0, test=0, size=8, workers=0)
    with pytest.raises(ValueError, match=r"cat/cat.png: an image of the format EPS"):
        list(data.train.batches())


def test_links_and_pipes_are_refused_by_name_and_never_waited_for(tmp_path):
    place = pets(tmp_path)
    os.mkfifo(place / "cat" / "pipe.jpg")
    (place / "dog" / "link.jpg").symlink_to(tmp_path / "nowhere")
    (place / "dog" / "good.jpg").symlink_to(place / "dog" / "0.jpg")
    (place / "cat" / "folder.jpg").mkdir()
    with pytest.raises(ValueError, match=r"cat/pipe.jpg in .*got .*(no file|a FIFO)"):
        import_set("pets", place)
    stored = import_set("pets", place, bad="skip")
    assert stored.manifest["parts"] == {"all": 11}
    assert "dog/link.jpg" in stored.manifest["skipped"]["first"][1]
    data = folder(place, validation=0, test=0, size=8, workers=0, skip=True)
    ((_, y),) = data.train.batches(shuffle=False)
    assert y.tolist() == [0] * 5 + [1] * 6


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    place = pets(tmp_path)
    with (place / "cat" / "huge.png").open("wb") as file:
        file.truncate(1 << 40)  # a sparse file
    with pytest.raises(ValueError, match=r"cat/huge.png in .*: .*its 1,099,511,627,776 bytes are more than"):
        import_set("pets", place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    place = pets(tmp_path)
    (place / "cat" / "secret").mkdir(mode=0)
    with pytest.raises(PermissionError):
        folder(place)


@pytest.mark.parametrize("name", [b"K\xf6ln", "Köln".encode(), b"[red]x", b"a\nb", b"\x1b[31m", "\u202egpj".encode()])
def test_names_of_any_bytes_are_kept(tmp_path, name):
    place = pets(tmp_path)
    (place / "dog").rename(place / os.fsdecode(name))
    (place / os.fsdecode(name) / "0.jpg").rename(place / os.fsdecode(name) / os.fsdecode(name + b".jpg"))
    _, data = both(place)
    assert sorted(data.classes) == sorted(["cat", os.fsdecode(name)])


def test_images_of_all_kinds_come_out_alike_in_place_and_imported(tmp_path):
    place = tmp_path / "pets"
    (place / "a").mkdir(parents=True)
    color = Image.fromarray(miniatures.rng().integers(0, 256, (30, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    color.save(place / "a" / "0.jpg", exif=exif)
    color.convert("CMYK").save(place / "a" / "1.JPEG")
    color.quantize(7).save(place / "a" / "2.png", transparency=1)
    color.convert("LA").save(place / "a" / "3.Png")
    Image.fromarray(np.asarray(color)[:, :, 0].astype(np.uint16) * 257).save(place / "a" / "4.png")
    color.save(place / "a" / "5.gif")
    color.save(place / "a" / "6.webp")
    color.save(place / "a" / "7.bmp")
    color.save(place / "a" / "8.jfif", "JPEG")
    _, here = both(place)
    ((x, _),) = here.train.batches()
    ((y, _),) = load("pets", validation=0, test=0, size=8, workers=0).train.batches()
    assert len(x) == 9
    assert (x == y).all()


def test_a_folder_is_listed_by_class_and_then_by_path(tmp_path):
    place = pets(tmp_path, count=2)
    (place / "cat" / "deep" / "er").mkdir(parents=True)
    (place / "cat" / "deep" / "er" / "x.jpg").write_bytes(miniatures.image_bytes())
    found = folders.list_images(place, ["cat", "dog"], BadRecords())
    assert [name for name, _, _ in found.items(place)] == [
        "cat/0.jpg",
        "cat/1.jpg",
        "cat/deep/er/x.jpg",
        "dog/0.jpg",
        "dog/1.jpg",
    ]
    assert found.labels.tolist() == [0, 0, 0, 1, 1]
