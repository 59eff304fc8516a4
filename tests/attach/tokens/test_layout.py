"""Channels are told from positions by the layers that ran before."""

import pytest
import torch
from torch import nn

import suffice


class Signal(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.first, self.deep, self.fc = first, nn.Conv1d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.deep(self.first(x)).relu().mean(2))


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(8, 16, 3, padding=1)

    def forward(self, x):
        return self.conv(x).mT


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.deep, self.fc = Transposed(), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.deep(self.first(x)).mean(1))


@pytest.mark.parametrize("last", [nn.ReLU(), nn.Dropout(), nn.MaxPool1d(2), nn.BatchNorm1d(16), nn.Identity()])
@pytest.mark.parametrize("length", [12, 16])
def test_an_exit_behind_a_convolution_reads_its_channels(last, length):
    model = Signal(nn.Sequential(nn.Conv1d(8, 16, 3, padding=1), last)).eval()
    network = suffice.attach_exits(model, "first", example=torch.randn(4, 8, length)).eval()
    assert network.exit(0).classifier.in_features == 16
    assert network(torch.randn(3, 8, 20))[0].shape == (3, 4)


def test_a_convolution_with_a_transposed_output_returns_tokens():
    network = suffice.attach_exits(Tokens().eval(), "first", example=torch.randn(4, 8, 12)).eval()
    assert network.exit(0).classifier.in_features == 16
    assert network(torch.randn(3, 8, 20))[0].shape == (3, 4)


def test_as_many_positions_as_channels_of_a_custom_module_are_refused_by_name():
    x = torch.randn(4, 8, 16)
    with pytest.raises(ValueError, match=r"got shape \(2, 16, 16\), which may be either; pass pooling='tokens' or"):
        suffice.attach_exits(Tokens().eval(), "first", example=x)
    assert suffice.attach_exits(Tokens().eval(), "first", example=x, pooling="tokens").num_classes == 4
