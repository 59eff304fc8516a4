import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from suffice.storage.fingerprint import fingerprint
from suffice.storage.parts import Parts
from suffice.variation.estimator import VariationEstimator
from suffice.variation.fitting import fit_variation
from suffice.variation.quality import Audit
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.spreads import Variation

TEACHER = MCDropout(passes=8, likelihood="regression")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n, seed=0):
    return torch.randn(n, 3, generator=seeded(seed))


def tower():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1))


class Applied(nn.Module):
    """Module that applies a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, state):
        return self.function(state)


@pytest.fixture(scope="module")
def estimator():
    return fit_variation(tower(), [rows(4000)], [rows(1000, seed=1)], teacher=TEACHER, epochs=20, generator=seeded())


@pytest.fixture(scope="module")
def truth(estimator):
    return MCDropout(passes=3000, likelihood="regression")(estimator.model, rows(500, seed=2), generator=seeded(9))


def log_error(estimate, truth):
    return float((estimate.double() / truth).log().square().mean())


def test_the_output_is_the_models_own_and_its_modes_weights_and_hooks_do_not_change(estimator):
    model, x = estimator.model, rows(40, seed=2)
    model.train()
    output, variation = estimator(x)
    assert all(module.training for module in model.modules())
    assert fingerprint(model) == estimator.network_hash
    with torch.no_grad():
        assert torch.equal(output, model.eval()(x))
    assert variation.shape == (40,)
    assert variation.dtype == torch.float32
    assert not variation.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


def test_weights_that_change_after_fitting_are_refused_and_restored_ones_are_not():
    model = tower()
    estimator = fit_variation(model, [rows(64)], [rows(32, seed=1)], teacher=TEACHER, epochs=2, generator=seeded())
    weight = model[3].weight
    estimator(rows(5))
    with torch.no_grad():
        weight.add_(1)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"hash {estimator.network_hash[:12]}…, got {fingerprint(model)[:12]}"):
            estimator(rows(5))
    with torch.no_grad():
        weight.sub_(1)
    model[3].weight = nn.Parameter(weight.detach().clone())
    if fingerprint(model) == estimator.network_hash:
        estimator(rows(5))
    model[3].weight = nn.Parameter(weight.detach() + 1)
    with pytest.raises(ValueError, match="expected a network whose weights have the hash"):
        estimator(rows(5))


def test_another_network_or_none_is_refused_on_loading(estimator):
    configuration, tensors = estimator.parts()
    other = tower()
    other[0].weight.data += 1
    with pytest.raises(ValueError, match=f"{estimator.network_hash[:12]}…, got {fingerprint(other)[:12]}…"):
        VariationEstimator.from_parts(Parts(configuration, tensors), other)
    with pytest.raises(TypeError, match="expected the model that this was fitted for, got None"):
        VariationEstimator.from_parts(Parts(configuration, tensors), None)


def test_inputs_far_outside_are_flagged_with_a_warning(estimator):
    x = rows(20, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator(x)
    x[7] *= 100
    with pytest.warns(UserWarning, match="1 of 20 inputs are outside what the estimator was fitted on"):
        estimator(x)
    assert estimator.estimate(x).outside.nonzero()[:, 0].tolist() == [7]


@pytest.mark.parametrize("size", [1, 64, 4096])
def test_batches_like_those_of_fitting_cause_no_warning(estimator, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(5):
            estimator(rows(size, seed=100 + seed))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_outputs_that_are_not_finite_are_refused_by_position(estimator, value):
    x = rows(4)
    x[2] = value
    with pytest.raises(ValueError, match="finite outputs, got NaN or infinity at position 2"):
        estimator(x)


@pytest.mark.parametrize(
    ("hidden", "last", "what"),
    [
        (torch.square, torch.Tensor.clone, "outputs"),  # the small network's inputs are clipped
        (lambda h: h - h.square() + h.square(), torch.nan_to_num, "variations"),  # NaN
    ],
)
def test_an_output_or_an_estimate_that_is_not_finite_is_refused_though_the_other_is(hidden, last, what):
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Dropout(0.5), Applied(hidden), Applied(last))
    nn.init.ones_(net[0].weight)
    x = torch.linspace(1, 2, 50)[:, None]
    fitted = fit_variation(net, [x], [x + 0.01], teacher=TEACHER, layers=["2"], epochs=1, generator=seeded())
    with pytest.raises(ValueError, match=f"finite {what}, got NaN or infinity at position 1"):
        fitted(torch.tensor([[1.5], [1e30]]))


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_the_band_covers_what_the_teacher_measures_with_the_stated_coverage(estimator, coverage):
    x = rows(4000, seed=3)
    measured = TEACHER(estimator.model, x, generator=seeded(4))["std"]
    low, high = estimator.band(estimator.estimate(x).variation, coverage)
    assert abs(float(((low <= measured) & (measured <= high)).double().mean()) - coverage) < 0.06
    assert (low < high).all()


def test_a_coverage_that_cannot_be_guaranteed_is_refused(estimator):
    with pytest.raises(ValueError, match=r"500 calibration rows can guarantee, which is at most 0.9960, got 0.999"):
        estimator.band(torch.ones(2), 0.999)
    with pytest.raises(ValueError, match=r"coverage in \(0, 1\)"):
        estimator.band(torch.ones(2), 1.0)


def test_an_audit_of_few_passes_agrees_with_many(estimator, truth):
    x = rows(500, seed=2)
    variation = estimator(x)[1].double()
    exact = float(1 - (variation - truth["std"]).square().mean() / truth["std"].var(correction=0))
    audits = [estimator.audit(x, generator=seeded(seed)) for seed in range(5)]
    mean = {name: sum(getattr(audit, name) for audit in audits) / 5 for name in vars(audits[0])}
    assert mean["r_squared"] == pytest.approx(exact, abs=0.03)
    correlation = float(torch.corrcoef(torch.stack([variation, truth["std"]]))[0, 1])
    assert mean["squared_correlation"] == pytest.approx(correlation**2, abs=0.03)
    bias = float((variation.square().mean() / truth["std"].square().mean()).sqrt() - 1)
    assert mean["bias"] == pytest.approx(bias, abs=0.02)
    assert (mean["rows"], mean["passes"]) == (500, 20)
    assert mean["outside"] < 0.01 + 5 * (0.01 / 500) ** 0.5  # a share of 1 % up to five standard deviations


def test_an_audit_shows_the_bias_of_an_estimator(estimator):
    fitted = replace(estimator.fitted_mlp, unit=4 * estimator.fitted_mlp.unit, bounds=(0.0, 9.0))
    biased = replace(estimator, fitted_mlp=fitted)
    audit = biased.audit(rows(500, seed=2), generator=seeded())
    assert audit.bias == pytest.approx(1, abs=0.1)
    assert audit.r_squared < 0 < 0.8 < audit.squared_correlation


def test_a_cascade_is_better_than_its_passes_and_than_the_estimate(estimator, truth):
    x, exact = rows(500, seed=2), truth["std"]
    noisy = fit_variation(
        estimator.model, [rows(60)], [rows(400, seed=1)], teacher=TEACHER, layers=[], epochs=40, generator=seeded()
    )
    errors = []
    for seed in range(4):
        merged = noisy.cascade(x, passes=8, when=lambda e: e.variation > 0, generator=seeded(seed)).variation
        few = MCDropout(passes=8, likelihood="regression")(noisy.model, x, generator=seeded(seed))["std"]
        errors.append((log_error(merged, exact), log_error(few, exact), log_error(noisy.estimate(x).variation, exact)))
    merged, few, estimate = (sum(parts) / 4 for parts in zip(*errors, strict=True))
    assert merged < 0.9 * min(few, estimate)


def test_a_cascade_runs_passes_for_flagged_examples_only(estimator):
    batch_sizes = []

    def teacher(model, x, *, generator=None):
        batch_sizes.append(len(x))
        return Variation(torch.zeros(len(x), 1), {"std": torch.full((len(x),), 7.0).double()}, 8, "regression")

    x = rows(30, seed=2)
    plain = estimator.estimate(x)
    assert torch.equal(estimator.cascade(x, teacher=teacher).variation, plain.variation)
    assert batch_sizes == []
    x[4] *= 100
    mixed = estimator.cascade(x, teacher=teacher, when=lambda e: torch.arange(30) == 9)
    assert batch_sizes == [2]
    changed = (mixed.variation != estimator.estimate(x).variation).nonzero()[:, 0].tolist()
    assert changed == [4, 9]
    assert mixed.variation[4] == pytest.approx(7 * (1 + 1 / 28), rel=1e-5)
    assert plain.variation[9] < mixed.variation[9] < 7


def test_real_passes_need_a_teacher_and_enough_of_them(estimator):
    configuration, tensors = estimator.parts()
    loaded = VariationEstimator.from_parts(Parts({**configuration, "teacher": None}, tensors), estimator.model)
    with pytest.raises(ValueError, match=r"expected a teacher for real passes, got none .* pass teacher=…"):
        loaded.audit(rows(9))
    with pytest.raises(ValueError, match="at least 4 passes, got 3"):
        estimator.audit(rows(9), passes=3)


def test_a_teacher_with_a_fixed_number_of_passes_is_counted_by_it(estimator):
    """Three passes count as three, whatever number is passed to the estimator."""

    def teacher(model, x, *, generator=None):
        return Variation(torch.zeros(len(x), 1), {"std": x[:, 0].abs().double() + 1}, 3, "regression")

    x = rows(30, seed=2)
    audits = [estimator.audit(x, passes, teacher=teacher) for passes in (4, 20)]
    assert audits[0] == audits[1]
    assert audits[0].passes == 6
    variations = [estimator.cascade(x, k, lambda e: e.variation > 0, teacher=teacher).variation for k in (2, 99)]
    assert torch.equal(*variations)


def test_its_representation_names_the_target_and_leaves_out_the_weights(estimator):
    assert repr(estimator) == (
        f"VariationEstimator(MCDropout, std, {len(estimator.layers)} layer, {estimator.macs:,} multiply-adds, "
        f"R² {estimator.quality.r_squared:.3f})"
    )


def test_an_estimator_equals_itself_alone_and_can_be_a_key(estimator):
    """This includes one with a table of the layers tried."""
    again = replace(estimator, quality=replace(estimator.quality, subsets=({"layers": []},)))
    assert estimator == estimator
    assert estimator != again
    assert {estimator: 1, again: 2}[again] == 2


def test_labels_beside_the_inputs_and_a_missing_batch_axis_are_refused_with_the_cause(estimator):
    x, y = rows(5), torch.zeros(5, dtype=torch.long)
    for form in (tuple, list):
        with pytest.raises(
            TypeError, match=r"expected inputs that Sequential takes, got a .*; pass x alone, if this is a"
        ):
            estimator(form((x, y)))
    with pytest.raises(
        ValueError, match=r"with the 3 examples first, got shape \(16,\); pass x\[None\], if the input is one"
    ):
        estimator(x[0])
    with pytest.raises(RuntimeError) as caught:
        TEACHER(tower(), x[0])
    assert "on inputs (or a few examples of them) of shape (3,)" in "".join(caught.value.__notes__)


def test_a_measure_that_is_not_a_number_is_shown_in_words(estimator):
    unknown = replace(estimator, quality=replace(estimator.quality, r_squared=float("nan")))
    assert repr(unknown).endswith("multiply-adds, R² not measurable)")
    assert repr(estimator).startswith("VariationEstimator(MCDropout, std, 1 layer, ")
    assert f"R² {estimator.quality.r_squared:.3f})" in repr(estimator)
    audit = Audit(200, 8, float("nan"), 0.5, -0.0612, 0.0, 0.01)
    assert "r_squared=not measurable, " in repr(audit)
    assert "bias=-0.0612" in repr(audit)
