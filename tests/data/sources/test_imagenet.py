import pytest

from suffice.data import import_set, load
from suffice.data.formats.images import packing
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


def test_unknown_files_in_the_imagenet_archives_are_named(tmp_path):
    official = miniatures.imagenet(tmp_path / "official")
    image = miniatures.image_bytes()
    miniatures.write_tar(official / "ILSVRC2012_img_val.tar", {"ILSVRC2012_val_00000005.JPEG": image}, "w")
    with pytest.raises(ValueError, match=r"to 00000004, once each, got ILSVRC2012_val_00000005.JPEG"):
        import_set("imagenet", official, any_checksum=True)
    miniatures.write_tar(official / "ILSVRC2012_img_train.tar", {"n77.tar": miniatures.tar_bytes({})}, "w")
    with pytest.raises(ValueError, match=r"named by the 2 classes, got n77.tar"):
        import_set("imagenet", official, any_checksum=True)


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
