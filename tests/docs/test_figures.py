"""Figures of the pages are drawn from the results that the tables show."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from suffice.reproduce import ledger

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", ROOT / "experiments" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(figures):
    return ledger.read(figures.RESULTS / "overconfidence.json")


def test_the_figure_is_drawn_from_these_results(figures, results):
    assert figures.digest(results) in figures.FIGURE.read_text(), "run python experiments/figures.py"


def test_its_points_are_the_values_of_the_tables(figures, results):
    by_ece, by_feature = (figures.places(results, axis) for axis in ("ece", "per feature"))
    assert list(by_ece) == list(by_feature) == list(figures.PARTS)
    pretrained = by_ece["product, tuned weights"][0]
    assert pretrained[1:] == pytest.approx((-0.0376, -0.0421, -0.0336), abs=5e-5)
    assert pretrained[1:] == by_feature["product, tuned weights"][-1][1:]
    assert all(low <= mean <= high for points in by_ece.values() for _, mean, low, high in points)


def test_the_same_results_give_the_same_bytes(figures, results):
    pytest.importorskip("matplotlib")
    assert figures.draw(results) == figures.draw(results)
