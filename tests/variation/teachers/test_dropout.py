import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from suffice.models import convnet
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.spreads import concatenate
from tests import tolerances


class Echo(nn.Module):
    """Model whose logits are the dropped inputs."""

    def __init__(self, rate=0.5) -> None:
        super().__init__()
        self.dropout = nn.Dropout(rate)

    def forward(self, x):
        return self.dropout(x)


class Ignored(nn.Module):
    """Model with dropout on the way to an early output, which does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.dropout = nn.Linear(3, 4), nn.Dropout(0.5)

    def forward(self, x):
        return [self.dropout(self.head(x)), self.head(x)]


def tower(rate=0.5, seed=0, scale=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(rate), nn.Linear(8, 4))
        model[3].weight.data.mul_(scale)
    return model


def inputs(n, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


def test_identical_rows_and_passes_have_different_masks(generator):
    variation = MCDropout(passes=2, likelihood="regression")(Echo(), torch.ones(64, 40), generator=generator)
    assert len(variation.mean.unique(dim=0)) == 64
    spreads = torch.stack([variation[f"std_{d}"] for d in range(40)], dim=1)
    assert len(spreads.unique(dim=0)) == 64
    assert abs((spreads > 0).double().mean() - 0.5) < 0.05


def test_masks_shared_by_rows_would_look_predictable_and_be_wrong(generator):
    """Labels of few shared masks are a smooth function of the input, but not the variance."""
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

    def fit(labels):
        return (features[1000:] @ torch.linalg.lstsq(features[:1000], labels[:1000, None]).solution)[:, 0]

    def r2(estimate, target):
        return 1 - ((estimate - target) ** 2).mean() / target.var()

    assert r2(fit(shared), shared[1000:]) > 0.99
    assert r2(fit(shared), truth[1000:].double()) < 0.5
    assert r2(fit(shared), other_shared[1000:]) < 0.5
    assert r2(fit(independent), independent[1000:]) < 0.9
    assert r2(fit(independent), truth[1000:].double()) > 0.9


def test_the_same_seed_gives_the_same_bytes_and_another_seed_different_ones():
    model, x = tower(), inputs(5)

    def stds(seed):
        return MCDropout(passes=5)(model, x, generator=torch.Generator().manual_seed(seed))["std"]

    assert torch.equal(stds(0), stds(0))
    assert not torch.equal(stds(0), stds(1))


def test_the_default_generator_is_used_only_without_a_generator():
    model, x = tower(), inputs(5)
    torch.manual_seed(3)
    first = MCDropout(passes=5)(model, x)["std"]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    MCDropout(passes=5)(model, x, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(MCDropout(passes=5)(model, x)["std"], first)


def test_modes_and_buffers_do_not_change_and_training_mode_adds_no_dropout(generator):
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


def test_the_last_exit_of_a_network_counts(generator):
    model = convnet(4, widths=(3, 5), dropout=0.3).eval()
    last = list(model.exits[1].modules())
    x = torch.rand(6, 1, 8, 8)
    variation = MCDropout(at="exits.1.*dropout", passes=50)(model, x, generator=generator)
    assert any(isinstance(module, nn.Dropout) for module in last)
    assert variation.mean.shape == (6, 4)
    assert (variation["std"] > 0).all()
    with pytest.raises(ValueError, match=r"expected dropout at .*exits.0.features.dropout.* to change"):
        MCDropout(at="exits.0.*dropout", passes=4)(model, x, generator=generator)


def test_a_half_precision_model_varies_like_its_float32_self():
    x = inputs(5)
    half = MCDropout(passes=400)(tower().bfloat16(), x.bfloat16(), generator=torch.Generator().manual_seed(0))
    full = MCDropout(passes=400)(tower(), x, generator=torch.Generator().manual_seed(0))
    assert half["std"].dtype == torch.float64
    torch.testing.assert_close(half["std"], full["std"], rtol=0.05, atol=1e-3)


def test_variations_of_batches_are_concatenated(generator):
    model, x = tower(), inputs(5)
    parts = [MCDropout(passes=3)(model, part, generator=generator) for part in x.split(2)]
    whole = concatenate(parts)
    assert torch.equal(whole["std_mean"], torch.cat([part["std_mean"] for part in parts]))
    assert whole.mean.shape == (5, 4)
    assert whole.passes == 3


def test_dropout_that_changes_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"expected dropout at \['dropout'\] to change .* all 3 passes"):
        MCDropout(passes=3)(Ignored(), inputs(4))


def test_rounding_that_depends_on_the_batch_size_does_not_count_as_a_change(generator):
    model = Ignored()
    model.head = nn.Linear(4000, 4)
    x = torch.randn(1, 4000, generator=generator)
    with pytest.raises(ValueError, match="to change the predictions, got the same outputs"):
        MCDropout(passes=64)(model, x, generator=generator)


def test_a_saturated_prediction_with_little_variation_is_not_an_error(generator):
    model = tower()
    model[3].bias.data = torch.tensor([60.0, 0, 0, 0])
    std = MCDropout(passes=10)(model, inputs(2), generator=generator)["std"]
    assert (std < 1e-12).all()


def test_an_empty_batch_and_logits_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="at least one example, got an empty batch"):
        MCDropout()(tower(), inputs(0))
    x = inputs(3)
    x[1] = torch.nan
    with pytest.raises(ValueError, match="expected finite outputs, got NaN or infinity at position 1"):
        MCDropout()(tower(), x)


@pytest.mark.parametrize("likelihood", ["binary", "regression"])
@pytest.mark.parametrize("squeeze", [True, False])
def test_the_variance_of_dropout_before_the_last_linear_layer_has_its_closed_form(likelihood, squeeze, generator):
    model, x = nn.Sequential(*tower(rate=0.3)[:3], nn.Linear(8, 1)), inputs(3)
    hidden = model[1](model[0](x))
    exact = (hidden.square() @ model[3].weight.square().T * 0.3 / 0.7).sqrt()[:, 0]
    served = nn.Sequential(model, nn.Flatten(0)) if squeeze else model
    variation = MCDropout(passes=20_000, likelihood=likelihood)(served, x, generator=generator)
    torch.testing.assert_close(variation["std"], exact.detach().double(), rtol=tolerances.deviation(20_000), atol=0)
    off = tolerances.mean(float(exact.detach().max()), 20_000)
    torch.testing.assert_close(variation.mean, model.eval()(x).detach().double(), rtol=0, atol=off)


def test_dropout_inside_attention_follows_the_generator_and_varies_by_row():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(1))
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0)).repeat(6, 1, 1)

    def stds(at, seed):
        teacher = MCDropout(0.3, at=at, passes=20)
        return teacher(model, x, generator=torch.Generator().manual_seed(seed))["std_mean"]

    state = torch.get_rng_state()
    for at in ("0.self_attn", None):
        assert torch.equal(stds(at, 0), stds(at, 0))
        assert len(stds(at, 0).unique()) == 6
        assert not torch.equal(stds(at, 0), stds(at, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert (stds(None, 0) > stds("0.self_attn", 0)).all()


def test_the_spread_of_attention_dropout_matches_an_explicit_computation(generator):
    class Attention(nn.Module):
        def forward(self, x):
            rate = 0.4 if self.training else 0.0
            return functional.scaled_dot_product_attention(x, x, x, dropout_p=rate)[:, 0]

    x = torch.randn(3, 5, 4, generator=generator)
    weights = (x @ x.mT / 2).softmax(dim=-1)[:, 0]
    exact = (weights.square()[:, :, None] * x.square()).sum(dim=1) * 0.4 / 0.6
    variation = MCDropout(passes=20_000, likelihood="regression")(Attention(), x, generator=generator)
    off = tolerances.deviation(20_000)
    torch.testing.assert_close(variation["std"], exact.mean(dim=1).sqrt().double(), rtol=off, atol=0)


def test_hooks_and_modes_are_restored_after_an_exception(generator):
    model = tower().train()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        MCDropout(passes=2)(model, torch.zeros(2, 5), generator=generator)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.training


def test_inputs_may_be_a_nest_of_tensors():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = tower()

        def forward(self, a, b):
            return self.tower(a + b[0])

    x = inputs(7)
    nested = MCDropout(passes=3)(Nested(), {"a": x, "b": [x]}, generator=torch.Generator().manual_seed(0))
    plain = MCDropout(passes=3)(tower(), 2 * x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nested["std"], plain["std"])


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"passes": 1}, "passes of at least 2, got 1"),
        ({"rate": 0.0}, r"rate in \(0, 1\), got 0.0"),
        ({"rate": 1.0}, r"rate in \(0, 1\), got 1.0"),
        ({"rate": float("nan")}, r"rate in \(0, 1\), got nan"),
        (
            {"likelihood": "poisson"},
            r"one of \('classification', 'binary', 'multilabel', 'regression'\), got 'poisson'",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        MCDropout(**choices)


def test_names_in_a_list_are_kept_as_a_tuple_and_make_an_equal_hashable_teacher():
    teacher = MCDropout(0.2, at=["0", "2"])
    assert teacher.at == ("0", "2")
    assert teacher == MCDropout(0.2, at=("0", "2"))
    assert len({teacher, MCDropout(0.2, at=("0", "2")), MCDropout(0.2, at="0")}) == 2


def test_another_number_of_passes_changes_nothing_else():
    assert MCDropout(0.2, at="0", passes=5).with_passes(7) == MCDropout(0.2, at="0", passes=7)


def test_a_class_that_is_masked_by_a_huge_number_does_not_hide_the_variation_of_the_others():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4))

        def forward(self, x):
            return self.head(x) + torch.tensor([0, 0, -1e9, 0])

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    spread = MCDropout(passes=20)(Masked().eval(), x, generator=torch.Generator().manual_seed(0))["std"]
    assert float(spread.min()) > 0
