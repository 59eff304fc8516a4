import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from suffice.models import convnet
from suffice.prediction import entropy
from suffice.variation.dropout import MCDropout, Variation, concatenate, find_sites, gated


class Recorder(nn.Module):
    """A model that keeps what it answers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.answers = model, []

    def forward(self, x):
        self.answers.append(self.model(x))
        return self.answers[-1]


class Functional(nn.Module):
    """Dropout called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(nn.functional.dropout(self.hidden(x), 0.5, self.training))


class Ignored(nn.Module):
    """Dropout on the way to an answer that is thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.dropout = nn.Linear(3, 4), nn.Dropout(0.5)

    def forward(self, x):
        return [self.dropout(self.head(x)), self.head(x)]


class SharedRow(nn.Module):
    """Dropout on a row that all examples share."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.dropout, self.head = nn.Parameter(torch.ones(1, 3)), nn.Dropout(0.5), nn.Linear(3, 4)

    def forward(self, x):
        return self.head(x + self.dropout(self.row))


def tower(rate=0.5, seed=0, scale=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(rate), nn.Linear(8, 4))
        model[3].weight.data.mul_(scale)
    return model


def inputs(n, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


def masks(model, x, at=None, rate=None):
    """The factors of each site in one call of the model."""
    factors = []

    def gate(own_rate, units):
        factors.append((own_rate, units.shape))
        return torch.ones_like(units)

    with gated(find_sites(model, rate, at), len(x), gate):
        model(x)
    return factors


def test_identical_rows_of_a_batch_get_masks_of_their_own(generator):
    recorder = Recorder(nn.Sequential(nn.Dropout(0.5)))
    MCDropout(passes=2, rows=64)(recorder, torch.ones(32, 40), generator=generator)
    assert len(recorder.answers[1]) == 64
    assert len(recorder.answers[1].unique(dim=0)) == 64


def test_masks_shared_by_rows_would_look_predictable_and_be_wrong(generator):
    """Labels of few shared masks are a smooth function of the input, only not the one that is wanted."""
    weights = torch.tensor([1.0, 0.9, -0.8, 0.7, -0.6, 0.5, -0.4, 0.3]) / 50
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 2, bias=False))
    model[1].weight.data = torch.stack([weights, -weights])
    x = torch.rand(2000, 8, generator=generator) + 0.1
    truth = ((x * weights) ** 2).sum(dim=1) / 4

    def variances(factors):
        logits = (x * factors * weights).sum(dim=-1)
        return (2 * logits).sigmoid().double().var(dim=0)

    shared = variances(2 * torch.rand(20, 1, 8, generator=generator).round())
    other_shared = variances(2 * torch.rand(20, 1, 8, generator=generator).round())
    independent = MCDropout(passes=20)(model, x, generator=generator)["std"] ** 2

    products = [x[:, i] * x[:, j] for i, j in itertools.combinations_with_replacement(range(8), 2)]
    features = torch.stack([*products, torch.ones(2000)], dim=1).double()

    def learned(labels):
        return (features[1000:] @ torch.linalg.lstsq(features[:1000], labels[:1000, None]).solution)[:, 0]

    def r2(estimate, target):
        return 1 - ((estimate - target) ** 2).mean() / target.var()

    assert r2(learned(shared), shared[1000:]) > 0.99
    assert r2(learned(shared), truth[1000:].double()) < 0.5
    assert r2(learned(shared), other_shared[1000:]) < 0.5
    assert r2(learned(independent), independent[1000:]) < 0.9
    assert r2(learned(independent), truth[1000:].double()) > 0.9


@given(n=st.integers(1, 9), passes=st.integers(2, 12), rows=st.integers(1, 40), scale=st.sampled_from([1e-3, 1, 20]))
@settings(deadline=None, max_examples=40)
def test_streamed_moments_are_those_of_the_stored_passes(n, passes, rows, scale):
    recorder = Recorder(tower(scale=scale))
    x = inputs(n)
    variation = MCDropout(passes=passes, rows=rows)(recorder, x, generator=torch.Generator().manual_seed(1))
    assert max(map(len, recorder.answers)) <= rows

    stored, ordinary, answers = [], [], iter(recorder.answers)
    for start in range(0, n, rows):
        size = min(rows, n - start)
        ordinary.append(next(answers))
        found = []
        while sum(map(len, found)) < passes * size:
            found.append(next(answers))
        stored.append(torch.cat(found).view(passes, size, 4))
    assert next(answers, None) is None
    log_probs = torch.cat(stored, dim=1).double().log_softmax(dim=-1)
    probs = log_probs.exp()
    top = torch.cat(ordinary).argmax(dim=1)
    variance = probs.var(dim=0)
    information = entropy(probs.mean(dim=0).log()) - entropy(log_probs).mean(dim=0)
    torch.testing.assert_close(variation.mean, probs.mean(dim=0))
    torch.testing.assert_close(variation["std"], variance[torch.arange(n), top].sqrt(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(variation["std_mean"], variance.mean(dim=1).sqrt(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(variation["mutual_information"], information, rtol=1e-6, atol=1e-12)
    assert (variation["mutual_information"] >= 0).all()
    assert variation.passes == passes
    assert len(variation) == n


def test_folding_passes_into_the_batch_does_not_change_the_distribution(generator):
    model, x = tower(), inputs(4)
    folded = MCDropout(passes=4000, rows=1000)(model, x, generator=generator)
    single = MCDropout(passes=4000, rows=4)(model, x, generator=generator)
    torch.testing.assert_close(folded["std"], single["std"], rtol=0.08, atol=0)
    torch.testing.assert_close(folded.mean, single.mean, rtol=0, atol=0.02)


def test_the_logit_variance_before_a_last_linear_layer_is_the_closed_form(generator):
    model, x = tower(rate=0.3), inputs(3)
    recorder = Recorder(model)
    MCDropout(passes=20_000, rows=60_000)(recorder, x, generator=generator)
    sampled = recorder.answers[1].view(20_000, 3, 4).var(dim=0)
    hidden = model[1](model[0](x))
    exact = hidden.square() @ model[3].weight.square().T * 0.3 / 0.7
    torch.testing.assert_close(sampled, exact.detach(), rtol=0.05, atol=1e-4)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    model, x = tower(), inputs(5)

    def stds(seed):
        return MCDropout(passes=5)(model, x, generator=torch.Generator().manual_seed(seed))["std"]

    assert torch.equal(stds(0), stds(0))
    assert not torch.equal(stds(0), stds(1))


def test_without_a_generator_torch_draws_from_its_own_and_with_one_it_does_not():
    model, x = tower(), inputs(5)
    torch.manual_seed(3)
    first = MCDropout(passes=5)(model, x)["std"]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    MCDropout(passes=5)(model, x, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(MCDropout(passes=5)(model, x)["std"], first)


def test_modes_and_buffers_stay_and_a_model_in_training_gets_no_more_dropout(generator):
    model = convnet(4, widths=(3, 5), dropout=0.3)
    model.stages[0].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.rand(6, 1, 8, 8)
    training = MCDropout(passes=4)(model, x, generator=torch.Generator().manual_seed(0))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    evaluation = MCDropout(passes=4)(model.eval(), x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(training["std"], evaluation["std"])


def test_hooks_and_modes_are_restored_after_an_exception(generator):
    model = tower().train()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        MCDropout(passes=2)(model, torch.zeros(2, 5), generator=generator)
    recorder = Recorder(model)
    recorder.answers = None
    with pytest.raises(AttributeError):
        MCDropout(passes=2)(recorder, inputs(2), generator=generator)
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


@pytest.mark.parametrize(
    ("dropout", "shape", "units"),
    [
        (nn.Dropout(0.5), (2, 6, 4, 4), (2, 6, 4, 4)),
        (nn.Dropout1d(0.5), (2, 6, 4), (2, 6, 1)),
        (nn.Dropout2d(0.5), (2, 6, 4, 4), (2, 6, 1, 1)),
        (nn.Dropout3d(0.5), (2, 6, 4, 4, 4), (2, 6, 1, 1, 1)),
    ],
)
def test_channel_dropout_drops_whole_channels_and_plain_dropout_single_units(dropout, shape, units):
    assert masks(nn.Sequential(dropout), torch.ones(shape)) == [(0.5, units)]


def test_units_are_dropped_at_the_rate_and_the_rest_scaled_up(generator):
    recorder = Recorder(nn.Sequential(nn.Dropout(0.2)))
    MCDropout(passes=2, rows=2000)(recorder, torch.ones(1000, 20), generator=generator)
    values = recorder.answers[1]
    assert torch.equal(values.unique(), torch.tensor([0.0, 1 / 0.8]))
    share = (values == 0).double().mean()
    assert abs(share - 0.2) < 5 * math.sqrt(0.2 * 0.8 / values.numel())


def test_names_choose_where_and_a_rate_replaces_the_modules_own():
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.1), nn.Linear(8, 4), nn.Dropout(0.0))
    x = inputs(2)
    assert masks(model, x) == [(0.1, (2, 8))]
    assert masks(model, x, rate=0.4) == [(0.4, (2, 8)), (0.4, (2, 4))]
    assert masks(model, x, at="1") == [(0.1, (2, 8))]
    assert masks(model, x, at=["3", "0"], rate=0.4) == [(0.4, (2, 8)), (0.4, (2, 4))]


def test_the_answer_of_a_network_with_exits_is_the_last(generator):
    model = convnet(4, widths=(3, 5), dropout=0.3).eval()
    last = list(model.exits[1].modules())
    x = torch.rand(6, 1, 8, 8)
    variation = MCDropout(at="exits.1.*dropout", passes=50)(model, x, generator=generator)
    assert any(isinstance(module, nn.Dropout) for module in last)
    assert variation.mean.shape == (6, 4)
    assert (variation["std"] > 0).all()
    with pytest.raises(ValueError, match=r"expected dropout at .*exits.0.features.dropout.* to change"):
        MCDropout(at="exits.0.*dropout", passes=4)(model, x, generator=generator)


def test_inputs_may_be_a_nest_of_tensors(generator):
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = tower()

        def forward(self, x):
            return self.tower(x["a"] + x["b"][0])

    x = inputs(7)
    nested = MCDropout(passes=3, rows=4)(Nested(), {"a": x, "b": [x]}, generator=torch.Generator().manual_seed(0))
    plain = MCDropout(passes=3, rows=4)(tower(), 2 * x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nested["std"], plain["std"])


def test_a_half_precision_model_varies_like_its_float32_self():
    x = inputs(5)
    half = MCDropout(passes=400)(tower().bfloat16(), x.bfloat16(), generator=torch.Generator().manual_seed(0))
    full = MCDropout(passes=400)(tower(), x, generator=torch.Generator().manual_seed(0))
    assert half["std"].dtype == torch.float64
    torch.testing.assert_close(half["std"], full["std"], rtol=0.05, atol=1e-3)


def test_variations_of_batches_join_into_one(generator):
    model, x = tower(), inputs(5)
    parts = [MCDropout(passes=3)(model, part, generator=generator) for part in x.split(2)]
    joined = concatenate(parts)
    assert torch.equal(joined["std_mean"], torch.cat([part["std_mean"] for part in parts]))
    assert joined.mean.shape == (5, 4)
    assert joined.passes == 3


def test_variations_of_different_numbers_of_passes_do_not_join():
    few, many = (Variation(torch.ones(1, 2), {}, passes) for passes in (2, 3))
    with pytest.raises(ValueError, match=r"one number of passes, got \[2, 3\]"):
        concatenate([few, many])


def test_a_spread_that_is_not_there_is_an_error_with_the_names():
    variation = Variation(torch.ones(1, 2), {"std": torch.ones(1)}, 2)
    with pytest.raises(KeyError, match=r"expected one of the spreads \['std'\], got 'sd'"):
        variation["sd"]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"passes": 1}, "at least 2 passes, got 1"),
        ({"rows": 0}, "at least 1 row a call, got 0"),
        ({"rate": 0.0}, r"rate in \(0, 1\), got 0.0"),
        ({"rate": 1.0}, r"rate in \(0, 1\), got 1.0"),
        ({"rate": float("nan")}, r"rate in \(0, 1\), got nan"),
    ],
)
def test_choices_out_of_range_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        MCDropout(**choices)


@pytest.mark.parametrize("model", [Functional(), tower(rate=0.0)], ids=["functional", "rate 0"])
def test_a_model_without_active_dropout_modules_is_refused(model):
    with pytest.raises(ValueError, match=r"found none: dropout called as a function.*at=\[…\], with a rate"):
        MCDropout()(model, inputs(2))


def test_dropout_called_as_a_function_can_be_replaced_by_naming_a_module(generator):
    assert (MCDropout(0.5, at="hidden")(Functional(), inputs(3), generator=generator)["std"] > 0).all()


def test_a_module_other_than_dropout_needs_a_rate():
    with pytest.raises(ValueError, match=r"expected a rate for dropout on the output of '1' \(ReLU\)"):
        MCDropout(at="1")(tower(), inputs(2))


def test_a_module_whose_own_rate_is_one_is_refused():
    with pytest.raises(ValueError, match=r"rate in \(0, 1\) at '2', got 1.0"):
        MCDropout()(tower(rate=1.0), inputs(2))


def test_a_name_that_matches_nothing_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"got 'stages.0.9', which matches none; nearest: \['stages.0"):
        MCDropout(at="stages.0.9")(convnet(3, widths=(2,)), torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("at", [None, "0"])
@pytest.mark.parametrize("kind", [nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_alpha_dropout_is_refused(kind, at):
    with pytest.raises(ValueError, match=f"expected Dropout .* got {kind.__name__} at '0'"):
        MCDropout(at=at)(nn.Sequential(kind(0.5), nn.Linear(3, 4)), inputs(2))


def test_dropout_that_changes_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"expected dropout at \['dropout'\] to change .* all 3 passes"):
        MCDropout(passes=3)(Ignored(), inputs(4))


def test_rounding_that_depends_on_the_size_of_the_batch_is_no_change(generator):
    model = Ignored()
    model.head = nn.Linear(4000, 4)
    x = torch.randn(1, 4000, generator=generator)
    with pytest.raises(ValueError, match="to change the predictions, got the same logits"):
        MCDropout(passes=64)(model, x, generator=generator)


def test_a_saturated_prediction_varies_little_and_is_no_error(generator):
    model = tower()
    model[3].bias.data = torch.tensor([60.0, 0, 0, 0])
    std = MCDropout(passes=10)(model, inputs(2), generator=generator)["std"]
    assert (std < 1e-12).all()


def test_dropout_that_does_not_run_is_an_error():
    model = Functional()
    model.dropout = nn.Dropout(0.5)
    with pytest.raises(RuntimeError, match=r"got none of \['dropout'\] run"):
        MCDropout()(model, inputs(2))


def test_units_that_rows_share_are_refused():
    with pytest.raises(ValueError, match=r"'dropout' with the 12 rows .* got shape \(1, 3\).*share its mask"):
        MCDropout(passes=3)(SharedRow(), inputs(4))


def test_an_empty_batch_and_logits_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="at least one example, got an empty batch"):
        MCDropout()(tower(), inputs(0))
    x = inputs(3)
    x[1] = torch.nan
    with pytest.raises(ValueError, match="expected finite logits, got NaN or infinity at position 1"):
        MCDropout()(tower(), x)
