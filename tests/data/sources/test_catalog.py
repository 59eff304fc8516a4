import pytest

from suffice.data.sources import catalog
from suffice.data.store import lookup
from suffice.data.store.writer import create_dataset
from suffice.utils.progress import quiet


def find(name):
    with catalog.explain_missing():
        return lookup.find(name)


def test_a_set_that_is_not_there_is_an_error_that_says_how_to_get_it(store_folder):
    with pytest.raises(FileNotFoundError, match=rf"'cifar10' in {store_folder}.*data fetch cifar10.*data import"):
        find("cifar10")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("imagenet", r"accept the terms and download its files at http.* run `suffice data import imagenet FOLDER`"),
        ("cifar1o", r"no data set of that name is known; nearest: cifar10.*`suffice data import NAME SOURCE`"),
        ("thing", r"no data set of that name is known; nearest: things;"),
        ("visits", r"no data set of that name is known; import your own data with"),
        ("digits", r"suffice.data.load\('digits'\)"),
    ],
)
def test_the_instructions_for_a_missing_set_fit_the_set(name, advice):
    with create_dataset("things", quiet) as writer:
        writer.save("all_images", [[0]], "u1")
    with pytest.raises(FileNotFoundError, match=advice) as missing:
        find(name)
    assert "data fetch" not in str(missing.value)
