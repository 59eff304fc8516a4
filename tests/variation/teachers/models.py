"""Models and inputs that the tests of several teachers use."""

import torch
from torch import nn


class DataDependent(nn.Module):
    """Model whose control flow depends on values, so that its passes cannot be mapped."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        output = self.model(x)
        return output if float(output.sum()) < 1e9 else None


def record_rows(model):
    """Record the number of rows of each call of a model from now on."""
    rows = []
    model.register_forward_pre_hook(lambda _model, inputs: rows.append(len(inputs[0])))
    return rows


def tower():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))


def inputs(n):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
