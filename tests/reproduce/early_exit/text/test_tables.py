import pytest

from suffice.reproduce import catalog, ledger
from suffice.reproduce.early_exit import measurements
from suffice.reproduce.early_exit.text import tables

ACCURACY = {0: 0.9, 1: 0.8, 2: 0.7}
"""Accuracy of every measurement, by seed."""


def run(key, seed):
    """Make the values of a run; every number says where it comes from."""
    at = {"accuracy": ACCURACY[seed], "nll": 1.0, "ece": 0.02, "floor": 0.01}
    ladder = {**at, "brier": 0.2, "auroc": 0.7, "aurc": 0.1, "eefp": 0.3}
    if key.endswith("by exit"):
        return {"exits": [at, at], "wrong": "0 1"}
    if key == "budgets":
        row = {**at, "fraction": 0.5, "speedup": 2.0 + seed, "wrong": "0" if seed else "0 1 2"}
        row |= {"out of scope": {"auroc": 0.95, "macs": 5e6}, "milliseconds": {"1": 4.0, "64": 2.0}}
        times = {"1": 5.0, "64": 6.0}
        return {"plain": {"macs": 2e7, "macs, out of scope": 2e7, "milliseconds": times}, "rows": [row]}
    if key == "guarantees":
        return {"rows": [{**at, "loss": "agreement", "bound": 0.01, "lost": 0.005, "speedup": 2.0}]}
    if key == "out of scope":
        return {"max-probability": {"auroc": 0.96, "fpr95": 0.2}, "density": {"auroc": 0.9, "fpr95": 0.3}}
    if key == "scores":
        return {"rows": [{"score": "confidence", "accuracy": ACCURACY[seed], "eefp": 0.3, "aurc": 0.1}]}
    if key == "added":
        difference = {"mean": 0.01 * seed, "interval": (-0.1 * seed, 0.2)}
        return {part: dict.fromkeys(("accuracy", "nll", "ece"), difference) for part in measurements.ROW_PAIRS}
    return {"averaged": ladder, "exits": [at, at]}


@pytest.fixture
def results(tmp_path):
    """Write the results of all runs to a folder, and return them."""
    command = "suffice reproduce clinc150-minilm"
    runs = {}
    for key in (key for seed in tables.SEEDS for key in tables.keys(seed)):
        name, _, rest = key.partition(", seed ")
        seed, _, measure = rest.partition(": ")
        assert name in tables.RECIPES
        runs[key] = {"command": command, **ledger.provenance(), "measured": run(measure, int(seed))}
    written = {"command": command, "settings": {"test": 10}, "data": {}, "runs": runs}
    ledger.write(tmp_path / "clinc150-minilm.json", written)
    return ledger.read(tmp_path / "clinc150-minilm.json")


def cells(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_every_table_is_made_from_the_runs_that_the_catalog_needs(results, tmp_path):
    for name in catalog.find("clinc150-minilm").tables:
        assert "| --- |" in catalog.render_table(tmp_path, "clinc150-minilm", name)


def test_means_are_over_the_seeds(results):
    assert cells(tables.averaged(results), "default")[0] == "80.00 ± 10.00"
    assert cells(tables.networks(results), "LSTM from scratch: vanilla")[:2] == ["20", "80.00 ± 10.00"]
    assert cells(tables.exits(results), "all") == ["80.00 / 1.000 / 0.020"] * 2


def test_a_part_adds_the_mean_and_the_widest_interval(results):
    part = cells(tables.added(results), "ensemble to temperature")
    assert part[0] == "+1.00 [-20.00, +20.00]"


def test_budgets_are_compared_with_the_plain_network(results):
    plain, half = (cells(tables.budgets(results), name) for name in ("plain network", "50 %"))
    assert plain[3] == "80.00 ± 10.00"
    assert half[:3] == ["3.00 ± 1.00", "3.00 ± 0.00", "1.25 ± 0.00"]
    # per text of ten, over the seeds: 0 everywhere, but text 1 two thirds right that were wrong, text 2 a third wrong
    assert half[4].startswith("+3.33 [")
    assert half[-2:] == ["95.0", "4.00"]


def test_the_loss_of_each_seed_stands_beside_its_bound(results):
    row = cells(tables.guarantees(results), "agreement at most 1 %")
    assert row[:2] == ["0.50 / 0.50 / 0.50", "2.00 ± 0.00"]


def test_a_seed_that_is_not_complete_is_left_out_of_the_tables_and_named_in_the_state(results, tmp_path):
    file = tmp_path / "clinc150-minilm.json"
    assert catalog.find("clinc150-minilm").state(file) == ("full", "")
    del results["runs"]["lstm, seed 1: budgets"]
    ledger.write(file, results)
    assert cells(tables.averaged(results), "default")[0] == "80.00 ± 14.14"
    assert catalog.find("clinc150-minilm").state(file) == ("reduced", "2 of 3 seeds")
    del results["runs"]["lstm, seed 0: budgets"]
    ledger.write(file, results)
    assert catalog.find("clinc150-minilm").state(file)[0] == "partial"
