import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from suffice.data import folder, from_torch, import_set, load
from suffice.data.splits.categories import Hashed
from suffice.data.store.dataset import StoredDataset
from tests.data import miniatures


@pytest.fixture
def cifar(tmp_path):
    archive, _ = miniatures.cifar100(tmp_path / "cifar-100-python.tar.gz")
    return import_set("cifar100", archive, any_checksum=True)


def test_the_split_is_drawn_once_recorded_and_named_by_its_hash(cifar, monkeypatch):
    first = load("cifar100", validation=100, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(np.random, "default_rng", None)  # a second draw would fail
        again = load("cifar100", validation=100, seed=1)
    assert first.split == again.split
    assert torch.equal(first.train.labels, again.train.labels)
    assert load("cifar100", validation=100, seed=2).split != first.split


def test_validation_images_are_not_among_the_training_images(cifar):
    data = load("cifar100", validation=100)
    assert not set(data.train.rows.tolist()) & set(data.validation.rows.tolist())
    assert sorted(data.train.rows.tolist() + data.validation.rows.tolist()) == list(range(200))


def test_only_training_images_are_augmented(cifar):
    data = load("cifar100", validation=100)
    assert data.train.augment is not None
    assert data.validation.augment is None
    assert data.test.augment is None


def test_the_scale_is_that_of_the_training_images_alone(cifar):
    data = load("cifar100", validation=100)
    x = data.train.images.double() / 255
    torch.testing.assert_close(data.test.mean, x.mean(dim=(0, 2, 3)).float())
    assert data.test.mean is data.train.mean


def test_without_validation_all_training_images_are_memory_mapped(cifar):
    data = load("cifar100", validation=0)
    assert len(data.validation) == 0
    assert data.train.rows is None
    assert data.train.images.data_ptr() == data.train.pixels.data_ptr()


def test_the_official_test_part_has_no_size(cifar):
    with pytest.raises(ValueError, match=r"expected test=None for cifar100, which has a test part, got 50"):
        load("cifar100", test=50)


def test_data_sets_are_shown_in_one_line(cifar):
    data = load("cifar100", validation=100)
    assert repr(data.validation) == "Images(100 of (3, 32, 32), augment=None)"
    assert repr(data).startswith("DataSet('cifar100', train=Images(100 of (3, 32, 32), augment=CropFlip(")
    assert repr(data).endswith(f"100 classes, split={data.split[:12]}…)")
    given = from_torch(TensorDataset(torch.randn(50, 3)), validation=10, test_size=10)
    assert repr(given.train) == "Examples(30 of TensorDataset, workers=0)"
    assert "\n" not in repr(data) + repr(given)


def test_digits_are_loaded_by_name_with_the_same_names():
    data = load("digits", validation=300, seed=2)
    assert (len(data.train), len(data.validation), len(data.test)) == (897, 300, 600)
    assert data.name == "digits"
    assert len(data.classes) == 10
    assert data.split == load("digits", validation=300, seed=2).split != load("digits", validation=300, seed=3).split


def test_the_size_of_one_part_of_the_digits_leaves_the_other_as_it_is():
    data = load("digits", test=100)
    assert (len(data.validation), len(data.test)) == (400, 100)


def test_a_choice_that_the_kind_does_not_have_is_refused(cifar):
    with pytest.raises(TypeError, match="of 'cifar100' among validation, test, seed, augment, got 'workers'"):
        load("cifar100", workers=2)
    with pytest.raises(TypeError, match="of 'digits' among validation, test, seed, share, got 'valid'"):
        load("digits", valid=100)


def test_a_choice_that_photographs_and_tables_do_not_have_is_refused(tmp_path):
    archive, _ = miniatures.movielens(tmp_path / "ml-1m.zip", "1m")
    import_set("movielens-1m", archive, any_checksum=True)
    with pytest.raises(TypeError, match="test, seed, categories, min_frequency, buckets, unknown, got 'val'"):
        load("movielens-1m", val=0.1)
    with pytest.raises(TypeError, match="among validation, test, seed, size, workers, skip, got 'val'"):
        folder(tmp_path, val=0.1)


@pytest.mark.parametrize("choice", [{"categories": "onehot"}, {"unknown": "maybe"}])
def test_choices_of_tables_are_checked(tmp_path, choice):
    archive, _ = miniatures.movielens(tmp_path / "ml-1m.zip", "1m")
    import_set("movielens-1m", archive, any_checksum=True)
    with pytest.raises(ValueError, match="expected vocabulary or hashed, and zero or refuse"):
        load("movielens-1m", **choice)


def test_importing_what_is_not_there_names_the_place_and_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected cifar-10-python.tar.gz at .*nowhere, found nothing"):
        import_set("cifar10", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected bad as refuse or skip, got 'ignore'"):
        import_set("cifar10", tmp_path, bad="ignore")
    with pytest.raises(ValueError, match="expected a name of small letters"):
        import_set("My Pets", tmp_path)


def test_pytorch_data_sets_are_split_as_they_are(generator):
    x, y = torch.arange(100.0)[:, None], torch.arange(100) % 4
    data = from_torch(TensorDataset(x, y), labels=y, validation=20, test_size=20, seed=1)
    assert (len(data.train), len(data.validation), len(data.test)) == (60, 20, 20)
    seen = torch.cat([x for part in (data.train, data.validation, data.test) for x, _ in part.batches(8)])
    assert seen.flatten().sort().values.tolist() == list(range(100))
    assert torch.bincount(torch.cat([y for _, y in data.test.batches()])).tolist() == [5] * 4
    loader = data.train.shuffled(16, generator=generator)
    first, second = (torch.cat([x for x, _ in loader]).flatten().tolist() for _ in range(2))
    assert first != second
    assert sorted(first) == sorted(second)


def test_a_pytorch_test_set_is_taken_whole():
    train, test = TensorDataset(torch.arange(30)), TensorDataset(torch.arange(7))
    data = from_torch(train, test, validation=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 6, 7)


def test_a_changed_byte_is_noticed_when_the_set_is_loaded(cifar):
    file = cifar.folder / "train_images.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"train_images.npy with SHA-256 .* was changed since the import"):
        load("cifar100", validation=100)


def test_a_table_is_read_on_while_it_is_imported_again(tmp_path):
    source = tmp_path / "train.txt"
    source.write_text("".join(miniatures.criteo_lines(20)[0]))
    import_set("criteo", source)
    data = load("criteo")
    before = [batch["numeric"] for batch in data.train.batches(7)]
    copied = pickle.dumps(data)
    source.write_text("".join(miniatures.criteo_lines(30, seed=1)[0]))
    import_set("criteo", source)
    after = [batch["numeric"] for batch in data.train.batches(7)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert len(load("criteo").train) > len(data.train)
    with pytest.raises(ValueError, match="was changed since the import"):
        pickle.loads(copied)  # another process would open the file again


def test_an_import_that_comes_while_a_set_is_opened_is_loaded_whole(cifar, tmp_path, monkeypatch):
    archive, _ = miniatures.cifar100(tmp_path / "cifar-100-python.tar.gz", count=300)
    array, opened = StoredDataset.array, []

    def overtaken(stored, name):
        opened.append(name)
        if len(opened) == 2:
            import_set("cifar100", archive, any_checksum=True)
        return array(stored, name)

    monkeypatch.setattr(StoredDataset, "array", overtaken)
    data = load("cifar100", validation=100)
    assert (len(data.train), len(data.validation), len(data.test)) == (200, 100, 300)


def test_a_fifo_among_images_is_refused_by_name_and_not_waited_for(tmp_path):
    pets = miniatures.image_folder(tmp_path / "pets")
    os.mkfifo(next(pets.iterdir()) / "x.png")
    with pytest.raises(ValueError, match=r"expected a file, got a FIFO at .*/x.png"):
        import_set("pets", pets)
    with pytest.raises(ValueError, match=r"expected a file, got a FIFO at .*/x.png"):
        list(folder(pets, size=8, workers=0).train.batches())
    with pytest.raises(ValueError, match=r"a file or a folder, got the FIFO .*/x.png"):
        import_set("criteo", next(pets.iterdir()) / "x.png")


def test_a_size_of_the_test_split_is_refused_where_there_are_test_images(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(5):
                Image.new("RGB", (4, 4)).save(tmp_path / part / name / f"{i}.png")
    assert len(folder(tmp_path, validation=2).test) == 10
    with pytest.raises(ValueError, match=r"expected test=None for .*, which has a test part, got 0\.2"):
        folder(tmp_path, test=0.2)
    dataset = TensorDataset(torch.randn(50, 3))
    with pytest.raises(ValueError, match="expected test_size=None with a test dataset, got 5"):
        from_torch(dataset, dataset, test_size=5)


def test_sizes_of_the_digits_can_be_fractions():
    data = load("digits", validation=0.2, test=0.25)
    assert (len(data.validation), len(data.test)) == (359, 449)


def test_hashing_into_one_bucket_is_refused():
    with pytest.raises(ValueError, match="expected 2 buckets or more"):
        Hashed(fields=1, buckets=1)


@pytest.mark.parametrize(
    "form", [torch.Tensor.numpy, torch.Tensor.tolist, lambda y: [f"class {k}" for k in y.tolist()]]
)
def test_labels_of_a_torch_data_set_may_be_an_array_a_list_or_names(form):
    x, y = torch.randn(100, 3), torch.arange(100) % 4
    expected = from_torch(TensorDataset(x, y), labels=y).split
    assert from_torch(TensorDataset(x, y), labels=form(y)).split == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.arange(50), r"expected labels of shape \(100,\), one for each example, got shape \(50,\)"),
        (torch.eye(100), r"got shape \(100, 100\)"),
        ([0.0] * 99 + [float("nan")], "expected a class for each example, got nan at position 99"),
        ([0] * 99 + [None], r"expected labels of one type, numbers or text, got \['NoneType', 'int'\]"),
    ],
)
def test_labels_that_are_not_one_for_each_example_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        from_torch(TensorDataset(torch.randn(100, 3)), labels=labels)
