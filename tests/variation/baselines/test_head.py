import pytest
import torch
from torch import nn
from torch.nn import functional

from suffice.models import convnet, tower
from suffice.twin import inference
from suffice.variation.baselines.head import find_head, head_spread
from suffice.variation.teachers.dropout import MCDropout
from tests import tolerances
from tests.robustness.surroundings import anywhere


@pytest.fixture(autouse=True)
def seeded():
    """Seed every network and input of these tests."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def scripted_write(h: torch.Tensor):
    h.mul_(5.0)


class Functional(nn.Module):
    """Head of functions, some of which write into their input."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = functional.dropout(functional.relu(self.a(x), inplace=True), 0.2, self.training)
        h = functional.gelu(self.b(h), approximate="tanh")
        h = functional.dropout(h, 0.4, self.training, inplace=True)
        return self.c(functional.dropout(h, 0.5, self.training))


def plain(outputs=4, rate=0.3, activation=None):
    return nn.Sequential(nn.Linear(3, 16), activation or nn.ReLU(), nn.Dropout(rate), nn.Linear(16, outputs))


def test_the_layers_of_a_head_are_found_whatever_calls_them():
    head = find_head(Functional(), torch.rand(5, 4))
    assert head.layers == ("c", "b")
    assert head.rates == (pytest.approx(1 - 0.6 * 0.5), 0.2)  # two dropouts in a row
    assert head.activations == ("gelu_tanh",)
    assert head.points.shape == (128, 2)


def test_exits_and_towers_have_the_head_of_their_last_exit():
    head = find_head(convnet(9, widths=(3, 5), dropout=0.3), torch.rand(4, 1, 8, 8))
    assert (head.layers, head.rates) == (("exits.1.classifier",), (0.3,))
    assert head.points.shape == (128, 3)
    ids = torch.randint(9, (4, 2))
    deep = find_head(tower([9, 9], hidden=(8, 7, 6, 5), dropout=0.3), ids, likelihood="binary")
    assert deep.layers == ("exits.0.classifier", "stages.0.10", "stages.0.7")  # three at most
    assert deep.rates == (0.3,) * 3
    assert deep.activations == ("relu", "relu")


def test_only_dropout_on_inputs_of_the_head_counts_and_the_teachers_rate_replaces_its_own():
    model, x = Functional(), torch.rand(5, 4)
    assert find_head(model, x, rate=0.1).rates == (pytest.approx(1 - 0.9**2), 0.1)
    towered = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    assert find_head(towered, x).rates == (0, 0, 0.2)
    chosen = find_head(towered, x, at=["4", "1"], rate=0.25)  # after the last activation, and before the first
    assert (chosen.layers, chosen.rates) == (("5",), (0.25,))
    assert find_head(towered, x, at="<input>", rate=0.25).rates == (0, 0, 0.25)


@pytest.mark.parametrize(
    "between", [nn.Softmax(dim=1), nn.LeakyReLU(0.2), nn.LayerNorm(8), nn.BatchNorm1d(8), nn.PReLU()]
)
def test_a_head_begins_behind_what_has_no_known_slope(between):
    model = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 8), between, nn.Dropout(0.3), nn.Linear(8, 3)).eval()
    assert find_head(model, torch.rand(5, 4)).layers == ("4",)
    inner = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 8), between, nn.Linear(8, 3)).eval()
    with pytest.raises(ValueError, match=r"last linear layers, '3' and those right before it, got dropout at \['0'\]"):
        find_head(inner, torch.rand(5, 4))


def test_the_error_states_why_the_head_begins_where_it_does():
    def head_of(*middle):
        return lambda: find_head(nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 8), *middle).eval(), torch.rand(5, 4))

    last, weight_norm = nn.Linear(8, 3), nn.utils.parametrizations.weight_norm
    causes = {
        "as leaky_relu with parameters other than the default ones before it": head_of(nn.LeakyReLU(0.2), last),
        "as layer_norm before it is no activation": head_of(nn.LayerNorm(8), last),
        "as '2' before it is a layer whose weight a parametrization": head_of(weight_norm(nn.Linear(8, 8)), last),
        "got '2', whose weight a parametrization computes .*remove_param": head_of(weight_norm(nn.Linear(8, 3))),
        "got '2', whose class Twofold may compute something else": head_of(Twofold(8, 3)),
    }
    for cause, find in causes.items():
        with pytest.raises(ValueError, match=cause):
            find()


class Twofold(nn.Linear):
    """Linear layer with a forward of its own."""

    def forward(self, x):
        return super().forward(x) * 1


def test_a_write_into_the_values_begins_the_head():
    class Writing(nn.Module):
        def __init__(self, write):
            super().__init__()
            self.a, self.b, self.drop, self.write = nn.Linear(4, 8), nn.Linear(8, 3), nn.Dropout(0.3), write

        def forward(self, x):
            h = torch.relu(self.a(self.drop(x)))
            self.write(h)
            return self.b(h)

    def set_item(h):
        h[:, 0] = 1.0

    def nothing(h):
        h.mean()

    x = torch.rand(5, 4)
    assert find_head(Writing(nothing), x).layers == ("b", "a")
    writes = (
        set_item,
        lambda h: set_item(h.view(-1, 4)),
        lambda h: h.add_(1),
        lambda h: torch.add(h, 1, out=h),
        lambda h: h.__imul__(2),
        lambda h: torch._foreach_mul_([h], 5.0),
        lambda h: torch.sort(h, dim=1, out=(h, torch.empty_like(h, dtype=torch.long))),
    )
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        writes += (torch.jit.script(scripted_write),)
    for write in writes:
        with pytest.raises(ValueError, match="which is elsewhere"):
            find_head(Writing(write), x)


def test_a_layer_that_runs_twice_or_computes_something_else_is_not_followed():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.drop = nn.Linear(4, 4), nn.Linear(4, 3), nn.Dropout(0.3)

        def forward(self, x):
            return self.b(self.drop(self.a(self.a(self.drop(x)))))

    assert find_head(Twice(), torch.rand(5, 4)).layers == ("b",)
    model = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    nn.utils.parametrizations.weight_norm(model[1])
    assert find_head(model, torch.rand(5, 4)).layers == ("4",)
    nn.utils.parametrizations.weight_norm(model[4])
    with pytest.raises(ValueError, match="runs once as the last layer, got '4'"):
        find_head(model, torch.rand(5, 4))


def test_a_model_that_does_not_end_with_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match=r"expected an nn\.Linear with the same output as the model"):
        find_head(nn.Sequential(plain(), nn.Softmax(dim=1)), torch.rand(5, 3))
    with pytest.raises(ValueError, match="drops units at a rate above 0 in training mode, found nothing"):
        find_head(nn.Linear(3, 4), torch.rand(5, 3))
    with pytest.raises(ValueError, match="at most 64 outputs for the margins, got 65"):
        find_head(plain(65), torch.rand(5, 3), likelihood="regression")


@pytest.mark.parametrize(("likelihood", "outputs"), [("binary", 1), ("regression", 1), ("regression", 3)])
def test_the_spread_of_a_linear_output_is_that_of_forty_thousand_masks(likelihood, outputs, generator):
    model, x = plain(outputs), torch.randn(6, 3)
    sampled = MCDropout(passes=40_000, likelihood=likelihood)(model, x, generator=generator)["std"]
    spread = head_spread(model, x, likelihood=likelihood)
    assert spread.dtype == torch.float64
    torch.testing.assert_close(spread, sampled, rtol=tolerances.deviation(40_000), atol=0)


def test_the_spread_of_a_probability_is_close_to_that_of_forty_thousand_masks(generator):
    """Margins of sixty dropped units are nearly normal; the delta rule is not as close, as it is not bounded."""
    model = nn.Sequential(nn.Linear(3, 60), nn.ReLU(), nn.Dropout(0.3), nn.Linear(60, 4))
    with torch.no_grad():
        model[3].weight.mul_(4)
    x = torch.randn(40, 3)
    sampled = MCDropout(passes=40_000)(model, x, generator=generator)["std"]
    spread = head_spread(model, x)
    assert float((spread - sampled).square().mean() / sampled.var()) < 0.02


def test_dropout_elsewhere_whose_spread_is_missing_is_warned_of_by_name():
    class Elsewhere(nn.Module):
        def __init__(self):
            super().__init__()
            self.early, self.a, self.b = nn.Dropout(0.2), nn.Linear(3, 8), nn.Linear(8, 4)
            self.inner, self.last = nn.Dropout(0.2), nn.Dropout(0.3)

        def forward(self, x):
            h = functional.dropout(self.early(x).exp(), 0.1, self.training)
            return self.b(self.last(self.inner(self.a(h)).relu()))

    model, x = Elsewhere(), torch.rand(5, 3)
    with pytest.warns(UserWarning, match=r"got dropout also at 'early', the model's own forward, 'inner', whose part"):
        spread = head_spread(model, x)
    assert torch.equal(head_spread(model, x, at="last"), spread)  # on purpose


def test_attention_dropout_is_elsewhere_and_that_of_an_earlier_exit_changes_nothing():
    attention = nn.TransformerEncoderLayer(4, 1, 8, dropout=0.0, batch_first=True)
    attention.self_attn.dropout = 0.1
    model = nn.Sequential(attention, nn.Flatten(), nn.Dropout(0.3), nn.Linear(12, 3))
    with pytest.warns(UserWarning, match=r"got dropout also at '0.self_attn', whose part"):
        head_spread(model, torch.rand(5, 3, 4))
    head_spread(convnet(4, widths=(3, 5), dropout=0.3), torch.rand(4, 1, 8, 8), at="exits.*dropout")  # no warning


def test_rows_do_not_depend_on_their_batch():
    model, x = Functional().eval(), torch.rand(6, 4)
    together = head_spread(model, x)
    # Sums of at most eight products, over three layers, in float32; the spread is their root.
    rounding = 8 * tolerances.gamma(3 * 8, torch.float32)
    torch.testing.assert_close(
        together, torch.cat([head_spread(model, part) for part in x.split(1)]), rtol=rounding, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_agree_with_float32_to_their_precision(dtype):
    model, x = plain().eval(), torch.rand(6, 3)
    expected = head_spread(model, x)
    rounding = 32 * torch.finfo(dtype if dtype == torch.bfloat16 else torch.float32).eps
    torch.testing.assert_close(head_spread(model.to(dtype), x.to(dtype)), expected, rtol=rounding, atol=0)


def test_modes_gradients_and_hooks_do_not_change():
    model = Functional().train()
    head_spread(model, torch.rand(5, 4))
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@anywhere
def test_the_modes_of_the_caller_change_nothing(surrounding):
    model, x = plain(), torch.randn(5, 3)
    expected = head_spread(model, x)
    with surrounding():
        spread = head_spread(model, x)
    assert torch.equal(spread, expected)
    assert not spread.is_inference()


def test_deeper_layers_have_the_largest_rank_that_costs_fifteen_percent_of_the_model():
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(100, 80), nn.ReLU(), nn.Dropout(0.2), nn.Linear(80, 1)).eval()
    x = torch.randn(50, 100)
    head = find_head(model, x, likelihood="binary")
    assert head.factors == (None,)
    low = head.low_rank(model, x, "binary")
    # 8,080 multiply-adds; each rank adds 180 to the 180 of the squares and the 32 of the points.
    assert [tuple(matrix.shape) for matrix in low.factors[0]] == [(80, 5), (5, 100)]
    assert low.macs(model, "binary") == 180 + 32 + 5 * 180 <= 0.15 * 8080 < 180 + 32 + 6 * 180
    wide = nn.Sequential(nn.Linear(5, 4000), nn.ReLU(), nn.Linear(4000, 100), nn.ReLU(), *model)
    assert (
        find_head(wide, x[:, :5], likelihood="binary").low_rank(wide, x[:, :5], "binary").factors[0][0].shape[1] == 16
    )


def test_a_rank_of_one_remains_where_even_that_costs_more():
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(9, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)).eval()
    low = find_head(model, torch.randn(5, 9), likelihood="binary").low_rank(model, torch.randn(5, 9), "binary")
    assert low.factors[0][0].shape == (8, 1)
    assert plain_head().low_rank(plain(), torch.rand(5, 3), "classification").factors == ()  # no deeper layer


def plain_head():
    return find_head(plain(), torch.rand(5, 3))


@pytest.mark.parametrize("activation", [torch.relu, torch.tanh, functional.gelu])
def test_an_activation_may_take_its_input_by_name(activation):
    class Named(nn.Module):
        def __init__(self, call):
            super().__init__()
            self.a, self.b, self.drop, self.call = nn.Linear(4, 8), nn.Linear(8, 3), nn.Dropout(0.3), call

        def forward(self, x):
            return self.b(self.call(self.a(self.drop(x))))

    by_name, by_place = Named(lambda z: activation(input=z)), Named(activation)
    by_name.load_state_dict(by_place.state_dict())
    x = torch.rand(5, 4)
    assert find_head(by_name, x).activations == find_head(by_place, x).activations != ("identity",)
    assert torch.equal(head_spread(by_name, x), head_spread(by_place, x))


def test_an_activation_that_writes_its_output_elsewhere_begins_the_head():
    class Out(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
            self.first, self.second = nn.Dropout(0.3), nn.Dropout(0.3)

        def forward(self, x):
            h = self.a(self.first(x))
            torch.tanh(h, out=h)
            return self.b(self.second(h))

    assert find_head(Out(), torch.rand(5, 4)).layers == ("b",)


def test_a_weight_may_be_a_buffer():
    model, x = plain().eval(), torch.rand(5, 3)
    expected = head_spread(model, x)
    weight = model[3].weight.detach()
    del model[3].weight
    model[3].register_buffer("weight", weight)
    assert torch.equal(head_spread(model, x), expected)


def test_a_rate_that_is_one_up_to_rounding_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(1 - 1e-10), nn.Dropout(1 - 1e-10), nn.Linear(4, 3)).eval()
    with pytest.raises(ValueError, match="on the inputs of '3' at a rate below 1, got 1"):
        find_head(model, torch.rand(5, 3))


def test_a_spread_that_is_not_finite_is_refused():
    model = plain(1).eval()
    with torch.no_grad():
        model[3].weight.fill_(1e25)
    with pytest.raises(ValueError, match="spreads under dropout of the head"):
        head_spread(model, torch.rand(5, 3), likelihood="regression")


def test_the_spread_among_a_hundred_classes_is_close_to_that_of_twenty_thousand_masks(generator):
    """Four margins, as few as an estimator reads, give an R² below zero here."""
    model = nn.Sequential(nn.Linear(3, 60), nn.ReLU(), nn.Dropout(0.5), nn.Linear(60, 100)).eval()
    with torch.no_grad():
        model[3].weight.mul_(6)
    x = torch.randn(40, 3)
    sampled = MCDropout(passes=20_000)(model, x, generator=generator)["std"]
    assert float((head_spread(model, x) - sampled).square().mean() / sampled.var()) < 0.1


def test_features_of_predictions_do_not_depend_on_their_unit():
    model, x = plain(1).eval(), torch.rand(50, 3)
    small = plain(1).eval()
    small.load_state_dict(model.state_dict())
    with torch.no_grad():
        small[3].weight.mul_(2.0**-40)
        small[3].bias.mul_(2.0**-40)
    features = []
    for network in (model, small):
        head = find_head(network, x, likelihood="regression")
        with inference(network) as twin, head.recording(twin) as recorded:
            output = twin(x)
        features.append(head.features(output, recorded, "regression"))
    shift = 40 * torch.tensor(2.0).log()
    torch.testing.assert_close(features[1], features[0] - shift, rtol=tolerances.gamma(8, torch.float32), atol=0)
