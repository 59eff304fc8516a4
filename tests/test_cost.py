import time

import pytest
import torch
from torch import nn
from torch.nn import functional

from suffice import cost
from suffice.cost import Costs
from suffice.network import Exit, ExitNetwork
from tests import builders


def convolutional():
    stages = [nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, bias=False))]
    exits = [
        Exit(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w, 5)), nn.Linear(5, 3)) for w in (4, 6)
    ]
    return ExitNetwork(stages, exits)


def test_convolutions_and_linear_layers_are_counted_as_by_hand():
    costs = cost.count(convolutional(), torch.zeros(7, 1, 8, 8))
    assert costs.stages == (8 * 8 * 4 * 1 * 9, 2 * 2 * 6 * 4 * 9)
    assert costs.exits == (4 * 5 + 5 * 3, 6 * 5 + 5 * 3)
    assert costs.uncertainty == (0, 0)


@pytest.mark.parametrize("nested", [False, True])
def test_the_cost_is_per_example_for_any_batch_size_and_state(nested):
    net = builders.network(widths=(6, 5), classes=4, inputs=3, nested=nested)
    for size in (1, 9):
        costs = cost.count(net, builders.inputs(size))
        assert costs.stages == (3 * 6, 6 * 5)
        assert costs.exits == (6 * 4, 5 * 4)


def test_counting_leaves_modes_and_buffers_unchanged():
    stage = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    net = ExitNetwork([stage], [Exit(nn.Identity(), nn.Linear(4, 2))]).train()
    before = [tensor.clone() for tensor in net.state_dict().values()]
    cost.count(net, builders.inputs(5))
    assert all(module.training for module in net.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))


def test_cumulative_costs_add_stages_exits_and_uncertainty():
    costs = Costs(stages=(10, 20, 30), exits=(1, 2, 3), uncertainty=(0, 0, 0))
    assert costs.network == costs.cumulative == (11, 33, 66)
    dearer = costs.with_uncertainty((100, 200, 300))
    assert dearer.network == (11, 33, 66)
    assert dearer.cumulative == (111, 333, 666)


def test_the_uncertainty_of_a_calibrated_network_is_in_its_cumulative_cost():
    net, x = builders.network(widths=(6, 5), classes=4), builders.inputs(50)
    plain = builders.untuned(net, x, None)
    assert plain.costs.cumulative == plain.costs.network
    few, many = (builders.untuned(net, x, samples=samples) for samples in (8, 16))
    assert few.costs.network == plain.costs.network
    for k, exit_ in enumerate(few.exits):
        rank, (width, directions) = exit_.offsets.values.shape[0], exit_.posterior.compressed().feature_vectors.shape
        assert few.costs.uncertainty[k] == width * directions + (directions + 1) * 4 + 4 * rank + rank * 8 * 4
        assert many.costs.uncertainty[k] - few.costs.uncertainty[k] == rank * 8 * 4


class Attention(nn.Module):
    """Attention of three query tokens to all five."""

    def forward(self, x):
        heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
        return functional.scaled_dot_product_attention(heads[:, :, :3], heads, heads)


class First(nn.Module):
    """First output of a module, without attention weights or the last state."""

    def __init__(self, module, times=1):
        super().__init__()
        self.module, self.times = module, times

    def forward(self, x):
        return self.module(*[x] * self.times)[0]


T, E, H = 5, 8, 6
PROJECTIONS, PAIRS, FEEDFORWARD = 4 * T * E * E, 2 * T * T * E, 2 * T * E * 16


@pytest.mark.parametrize(
    ("stage", "macs"),
    [
        (Attention(), 2 * 3 * T * E),
        (First(nn.MultiheadAttention(E, 2, batch_first=True), times=3), PROJECTIONS + PAIRS),
        (nn.TransformerEncoderLayer(E, 2, 16, batch_first=True), PROJECTIONS + PAIRS + FEEDFORWARD),
        (nn.TransformerEncoderLayer(E, 2, 16, batch_first=True, norm_first=True), PROJECTIONS + PAIRS + FEEDFORWARD),
        (First(nn.LSTM(E, H, batch_first=True)), T * 4 * H * (E + H)),
        (
            First(nn.LSTM(E, H, num_layers=2, bidirectional=True, batch_first=True)),
            2 * T * 4 * H * (E + H) + 2 * T * 4 * H * (2 * H + H),
        ),
        (First(nn.LSTM(E, H, proj_size=2, batch_first=True)), T * (4 * H * (E + 2) + 2 * H)),
        (First(nn.GRU(E, H, batch_first=True)), T * 3 * H * (E + H)),
        (First(nn.RNN(E, H, batch_first=True)), T * H * (E + H)),
    ],
    ids=[
        "attention",
        "multihead",
        "encoder",
        "encoder, norm first",
        "lstm",
        "lstm, deep",
        "lstm, projected",
        "gru",
        "rnn",
    ],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch warns once about any such layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_layers_are_counted_as_by_hand(stage, macs, dtype):
    pooled = Exit(nn.Sequential(nn.Flatten(1), nn.AdaptiveAvgPool1d(4)), nn.Linear(4, 3))
    net = ExitNetwork([stage], [pooled]).to(dtype)
    assert cost.count(net, torch.zeros(7, T, E, dtype=dtype)).stages == (macs,)


@pytest.mark.parametrize(
    ("body", "macs"),
    [
        (nn.TransformerEncoderLayer(E, 2, 16, batch_first=True), PROJECTIONS + PAIRS + FEEDFORWARD),
        (First(nn.LSTM(E, H, batch_first=True)), T * 4 * H * (E + H)),
    ],
    ids=["encoder", "lstm"],
)
def test_a_plain_model_is_counted_for_one_example_with_its_fused_layers(body, macs):
    width = H if isinstance(body, First) else E
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(T * width, 3)).train()
    for size in (1, 7):
        assert cost.macs(model, torch.zeros(size, T, E)) == macs + T * width * 3
    assert all(module.training for module in model.modules())


def test_a_mapping_becomes_the_arguments_of_a_plain_model():
    class Both(nn.Linear):
        def forward(self, left, right):
            return super().forward(left) + super().forward(right)

    assert cost.macs(Both(3, 4), {"left": torch.zeros(5, 3), "right": torch.zeros(5, 3)}) == 2 * 3 * 4


def test_counting_leaves_the_fast_paths_unchanged():
    def flags():
        backends = torch.backends
        return backends.mha.get_fastpath_enabled(), backends.mkldnn.enabled, backends.cudnn.enabled

    before = flags()
    cost.count(builders.network(), builders.inputs(2))
    assert flags() == before
    with pytest.raises(RuntimeError):
        cost.count(builders.network(), builders.inputs(2, width=9))
    assert flags() == before


def planted(sizes=(1, 4, 16), batch_size=8):
    """Return a profile in which stage k takes (k + 1)(1 + size) ms and compaction half of that."""
    stages = torch.tensor([[(k + 1.0) * (1 + size) for k in range(3)] for size in sizes], dtype=torch.float64)
    zeros = torch.zeros_like(stages)
    return cost.Profile(sizes, stages, zeros, zeros, stages / 2, batch_size, "planted")


def test_times_are_interpolated_up_to_the_largest_batch_and_proportional_above():
    profile = planted()
    for size, expected in ((0, 0), (0.5, 2), (1, 4), (2, 6), (4, 10), (10, 22), (16, 34), (32, 68)):
        assert profile.milliseconds(1, size) == pytest.approx(expected)


def test_the_time_per_example_follows_the_shrinking_batch():
    profile, shares = planted(), torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    expected = profile.milliseconds(0, 8) + profile.milliseconds(1, 4) + profile.milliseconds(2, 2)
    assert profile.per_example(shares) == pytest.approx(expected / 8)


def test_compaction_pays_if_it_saves_more_than_it_costs():
    profile = planted()
    assert profile.saves_time(0, 16, 1)  # copying 1, saving 2 × 15
    assert not profile.saves_time(0, 16, 15)  # copying 8, saving 2


@pytest.mark.parametrize("nested", [False, True])
def test_a_profile_is_measured_for_every_part_and_size(nested):
    calibrated = builders.untuned(builders.network(nested=nested), builders.inputs(6))
    profile = cost.profile(calibrated, builders.inputs(6), batch_sizes=(2, 16), repeats=2)
    assert (profile.sizes, profile.batch_size) == ((1, 2, 6, 16), 6)
    for table in (profile.stages, profile.exits, profile.uncertainty, profile.compaction):
        assert table.shape == (4, 3)
        assert (table > 0).all()
        assert (table.diff(dim=0) >= 0).all()


def test_a_slow_stage_is_measured_at_its_place():
    net = builders.network()
    calibrated = builders.untuned(net, builders.inputs(6))
    net.stages[1].register_forward_hook(lambda *_: time.sleep(0.02))
    profile = cost.profile(calibrated, builders.inputs(6), batch_sizes=(4,), repeats=1)
    assert (profile.stages[:, 1] >= 20).all()
    assert (profile.stages[:, [0, 2]] < 20).all()
    assert (profile.exits < 20).all()


@pytest.mark.parametrize(("count", "sizes"), [(0, (4,)), (3, (0, 4))])
def test_a_profile_of_an_empty_batch_is_refused(count, sizes):
    calibrated = builders.untuned(builders.network(), builders.inputs(6))
    with pytest.raises(ValueError, match="one example or more"):
        cost.profile(calibrated, builders.inputs(count), batch_sizes=sizes)
