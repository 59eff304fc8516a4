"""Quick fits of small towers, which several tests of fitting use."""

import torch
from torch import nn

from suffice.variation.fitting import fit_variation
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.spreads import Variation

TEACHER = MCDropout(passes=6)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tower():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))


def rows(n, seed=0):
    return 2 * torch.randn(n, 3, generator=seeded(seed))


def fit(model=None, n=64, **choices):
    """Fit an estimator of a tower quickly."""
    model = tower() if model is None else model
    choices = {"teacher": TEACHER, "epochs": 3, "hidden": (8,), "generator": seeded(), **choices}
    return fit_variation(model, [rows(n)], [rows(32, seed=1)], **choices)


def fixed(model, x, *, generator=None):
    """Teacher without noise: the spread is the absolute value of the input's first column."""
    del model, generator
    spread = x[:, 0].abs().double()
    return Variation(torch.ones(len(x), 4) / 4, {"std": spread, "std_mean": spread}, 3)
