"""The real compact files, in the folder SUFFICE_COMPACT_DATA, have the published counts after an import."""

import os
from pathlib import Path

import numpy as np
import pytest

from suffice.data import import_set, load
from suffice.data.splits.images import Images, moments

FOLDER = os.environ.get("SUFFICE_COMPACT_DATA")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOLDER is None, reason="SUFFICE_COMPACT_DATA is not set"),
]


def imported(name):
    return import_set(name, Path(str(FOLDER)))


def test_cifar100_has_the_published_counts_and_moments():
    stored = imported("cifar100")
    assert stored.manifest["parts"] == {"train": 50_000, "test": 10_000}
    assert (np.bincount(stored.array("train_labels")) == 500).all()
    assert (np.bincount(stored.array("test_labels")) == 100).all()
    assert (np.bincount(stored.array("train_coarse")) == 2500).all()
    mean, std = moments(load("cifar100", validation=0).train)
    np.testing.assert_allclose(mean, (0.507075, 0.486549, 0.440918), atol=6e-7)
    np.testing.assert_allclose(std, (0.267334, 0.256438, 0.276150), atol=6e-7)
    repeated = {}
    for part in ("train", "test"):
        rows = stored.array(f"{part}_images").reshape(stored.manifest["parts"][part], -1)
        repeated[part] = len(rows) - len({row.tobytes() for row in rows})
    assert repeated == {"train": 14, "test": 2}
    data = load("cifar100")
    assert (len(data.train), len(data.validation), len(data.test)) == (45_000, 5_000, 10_000)
    assert (np.bincount(data.validation.labels) == 50).all()


@pytest.mark.parametrize(("name", "classes"), [("emnist-byclass", 62), ("emnist-bymerge", 47)])
def test_emnist_has_the_published_count(name, classes):
    stored = imported(name)
    assert stored.manifest["parts"] == {"all": 116_323}
    counts = np.bincount(stored.array("all_labels"))
    assert len(counts) == classes
    if classes == 47:
        assert (counts.min(), counts.max()) == (400, 6330)
    images = stored.array("all_images")
    assert len({image.tobytes() for image in images}) == 116_323


def test_movielens_1m_has_the_published_counts():
    stored = imported("movielens-1m")
    rows = stored.table("rows")
    assert stored.manifest["parts"] == {"all": 1_000_209}
    ratings = np.bincount(rows["rating"].to_numpy().astype(int), minlength=6)
    assert ratings.tolist() == [0, 56_174, 107_557, 261_197, 348_971, 226_310]
    users, movies = rows["user"].to_numpy(), rows["movie"].to_numpy()
    assert len(np.unique(users)) == 6040
    assert len(np.unique(movies)) == 3706
    assert len(np.unique(users.astype(np.int64) * 5000 + movies)) == 1_000_209
    by_user = np.bincount(users)[1:]
    assert (by_user.min(), by_user.max()) == (20, 2314)
    assert len(stored.table("users")) == 6040
    assert len(stored.table("movies")) == 3883


def test_the_criteo_sample_and_its_head_have_the_published_counts_and_agree():
    sample, head = imported("criteo-sample"), imported("criteo-head")
    assert sample.manifest["parts"] == {"all": 80_000}
    assert head.manifest["parts"] == {"all": 8000}
    rows = sample.table("rows")
    assert round(float(rows["label"].to_numpy().mean()), 4) == 0.2245
    for column in ("label", *(f"I{i}" for i in range(1, 14))):
        assert rows[column][:8000].to_pylist() == head.table("rows")[column].to_pylist()
    data = load("criteo-sample")
    assert len(data.train) + len(data.validation) + len(data.test) == 80_000


def test_tiny_imagenet_has_the_published_count():
    stored = imported("tiny-imagenet")
    assert stored.manifest["parts"] == {"all": 10_000}
    assert (np.bincount(stored.array("all_labels")) == 50).all()
    images = stored.array("all_images")
    grey = sum(bool((image == image[:1]).all()) for image in images)
    assert grey >= 168
    assert isinstance(load("tiny-imagenet").train, Images)
