import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from suffice.models import convnet
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.spreads import concatenate
from tests import tolerances


class Looking(nn.Module):
    """A model that looks at values, which cannot be mapped over passes."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        answer = self.model(x)
        return answer if float(answer.sum()) < 1e9 else None


def counted(model):
    """How many rows a model is given in each pass, from now on."""
    rows = []
    model.register_forward_pre_hook(lambda _model, inputs: rows.append(len(inputs[0])))
    return rows


class Echo(nn.Module):
    """Logits that are the dropped inputs."""

    def __init__(self, rate=0.5) -> None:
        super().__init__()
        self.dropout = nn.Dropout(rate)

    def forward(self, x):
        return self.dropout(x)


class Ignored(nn.Module):
    """Dropout on the way to an answer that is thrown away."""

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


def test_identical_rows_and_passes_get_masks_of_their_own(generator):
    variation = MCDropout(passes=2, likelihood="regression")(Echo(), torch.ones(64, 40), generator=generator)
    assert len(variation.mean.unique(dim=0)) == 64
    spreads = torch.stack([variation[f"std_{d}"] for d in range(40)], dim=1)
    assert len(spreads.unique(dim=0)) == 64
    assert abs((spreads > 0).double().mean() - 0.5) < 0.05


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


def test_dropout_that_changes_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"expected dropout at \['dropout'\] to change .* all 3 passes"):
        MCDropout(passes=3)(Ignored(), inputs(4))


def test_rounding_that_depends_on_the_size_of_the_batch_is_no_change(generator):
    model = Ignored()
    model.head = nn.Linear(4000, 4)
    x = torch.randn(1, 4000, generator=generator)
    with pytest.raises(ValueError, match="to change the predictions, got the same outputs"):
        MCDropout(passes=64)(model, x, generator=generator)


def test_a_saturated_prediction_varies_little_and_is_no_error(generator):
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


@pytest.mark.parametrize("passes", [3, 50])
def test_mapping_passes_gives_what_repeating_the_batch_gives(passes):
    model, x = tower(), inputs(7)
    for memory in (1 << 25, 4000):
        mapped = MCDropout(passes=passes, memory=memory)(model, x, generator=torch.Generator().manual_seed(0))
        looking = Looking(model)
        rows = counted(looking)
        repeated = MCDropout(passes=passes, memory=memory)(looking, x, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(mapped["std"], repeated["std"], rtol=1e-5, atol=1e-9)
    assert max(rows) < 7 * passes


def test_an_operation_that_torch_could_only_map_by_a_loop_is_not_mapped(generator):
    """It would be as slow as the passes one by one, and torch warns of it, which is an error here."""

    class Renormed(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = tower()

        def forward(self, x):
            return self.model(x).renorm(p=2, dim=0, maxnorm=1.0)

    assert MCDropout(passes=8)(Renormed(), inputs(7), generator=generator)["std"].shape == (7,)


def test_what_lies_before_the_first_dropout_runs_on_single_rows(generator):
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 4))
    rows = counted(model[0])
    MCDropout(passes=50)(model, inputs(6), generator=generator)
    assert rows == [2, 2, 6]


def test_less_memory_means_smaller_parts_and_too_little_is_refused(generator):
    rows = []
    for memory in (20_000, 80_000, 320_000):
        looking = Looking(tower())
        seen = counted(looking)
        MCDropout(passes=100, memory=memory)(looking, inputs(50), generator=generator)
        rows.append(max(seen))
    assert rows[0] * 2 < rows[1] < rows[2] / 2
    with pytest.raises(MemoryError, match=r"at most memory=50 bytes, got about \d+; pass a greater memory"):
        MCDropout(memory=50)(tower(), inputs(2))


@pytest.mark.parametrize("likelihood", ["binary", "regression"])
@pytest.mark.parametrize("squeeze", [True, False])
def test_the_variance_before_a_last_linear_layer_is_the_closed_form(likelihood, squeeze, generator):
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


def test_the_spread_of_attention_dropout_is_that_of_an_explicit_computation(generator):
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


@pytest.mark.parametrize("larger", [True, False])
def test_units_that_differ_from_pass_to_pass_are_refused(larger, generator):
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower, self.again = tower(), nn.Dropout(0.5)

        def forward(self, x):
            logits = self.again(self.tower(x))
            return self.again(logits) if (len(x) > 6) == larger else logits

    with pytest.raises(ValueError, match=r"same units to be dropped in every pass, got other ones"):
        MCDropout(passes=4)(Looking(Fickle()), inputs(6), generator=generator)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"passes": 1}, "at least 2 passes, got 1"),
        ({"rate": 0.0}, r"rate in \(0, 1\), got 0.0"),
        ({"rate": 1.0}, r"rate in \(0, 1\), got 1.0"),
        ({"rate": float("nan")}, r"rate in \(0, 1\), got nan"),
        ({"likelihood": "poisson"}, r"one of \('classification', 'binary', 'regression'\), got 'poisson'"),
    ],
)
def test_choices_out_of_range_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        MCDropout(**choices)
