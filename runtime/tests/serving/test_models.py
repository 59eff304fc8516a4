import pytest

from fake_network import network, rows
from serving.labeled import as_runner
from suffice_runtime.serving.models import Models


@pytest.fixture
def models(started):
    pairs = [("digits", "1"), ("digits", "10"), ("digits", "9"), ("texts", "1.9"), ("texts", "1.10"), ("texts", "beta")]
    return Models(started(as_runner(network()), name=name, version=version) for name, version in pairs)


def test_models_are_found_by_name_and_version_and_without_one_the_latest(models):
    assert (models.get("digits").version, models.get("texts").version) == ("10", "1.10")
    assert models.get("digits", "9") is models["digits", "9"]
    assert models.index() == {"digits": ("1", "9", "10"), "texts": ("beta", "1.9", "1.10")}
    assert (len(models), ("digits", "1") in models, ("digits", "2") in models) == (6, True, False)
    assert set(models) == {(name, version) for name, versions in models.index().items() for version in versions}


def test_models_that_do_not_exist_are_named(models):
    with pytest.raises(LookupError, match=r"expected a model in \['digits', 'texts'\], got 'image'"):
        models.get("image")
    with pytest.raises(LookupError, match=r"expected a version of digits in \['1', '9', '10'\], got '2'"):
        models.get("digits", "2")


def test_models_are_ready_until_they_are_closed(models):
    assert models.ready("digits")
    models.get("digits", "9").close()
    assert (models.ready("digits", "9"), models.ready("digits")) == (False, True)
    future = models.get("texts").submit(rows(3))
    assert models.close(10)
    assert len(future.result(0).answer) == 3
    assert not models.ready("texts")


def test_a_name_and_version_has_one_engine(started):
    with pytest.raises(ValueError, match="expected one engine for each name and version, got two"):
        Models([started(as_runner(network())), started(as_runner(network()))])
