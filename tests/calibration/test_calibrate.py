import copy

import pytest
import torch
from torch import nn

import suffice
from suffice import Exit, ExitNetwork, calibrate, metrics
from suffice.attach.determinism import check_deterministic
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.ensemble import shares_of_cost
from suffice.calibration.exits import with_bias
from suffice.storage.fingerprint import fingerprint
from tests import builders
from tests.robustness.surroundings import anywhere

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")

X = builders.inputs(120)


OUTPUTS = {"classification": 4, "binary": 1, "regression": 1, "heteroscedastic": 2}
"""Outputs of a small classifier under each likelihood."""


def targets_for(likelihood, x):
    return (x[:, 0] > 0).long() if likelihood in ("classification", "binary") else x[:, 0] * x[:, 1]


def uncertainty_of(answer):
    return answer.log_probs if isinstance(answer, suffice.Prediction) else answer.std


def data(net, n=120, size=32):
    x = X[:n]
    with torch.no_grad():
        labels = builders.sampled_labels(net(x.to(next(net.parameters())))[-1], 1.5)
    return builders.batched(x, labels, size)


def fit(net, train=None, val=None, seed=0, **options):
    """Calibrate with the posterior and the ensemble of the paper, unless options say otherwise."""
    options = {**builders.PAPER, **options}
    train = data(net) if train is None else train
    val = data(net, 100) if val is None else val
    generator = torch.Generator().manual_seed(seed)
    return calibrate(net, train, val, samples=8, generator=generator, **options)


@pytest.fixture(scope="module")
def calibrated():
    return fit(builders.network())


def same(a: Calibrated, b: Calibrated, x=X) -> bool:
    return all(
        torch.equal(p.log_probs, q.log_probs) and torch.equal(p.aleatoric, q.aleatoric)
        for p, q in zip(a(x), b(x), strict=True)
    )


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    net = builders.network()
    first, again = fit(net), fit(net)
    assert same(first, again)
    assert same(first, first)  # no random number is drawn at prediction
    assert not same(first, fit(net, seed=1))
    for a, b in zip(first.exits, again.exits, strict=True):
        assert (a.temperature, a.prior_precision) == (b.temperature, b.prior_precision)
        assert torch.equal(a.offsets.values, b.offsets.values)


@pytest.mark.parametrize("tuning", ["validation", "evidence", "grid"])
@pytest.mark.parametrize("structure", ["kronecker", None])
def test_each_stage_runs_once_per_batch_and_more_often_only_on_few_examples(structure, tuning):
    net = builders.network()
    train, val = data(net), data(net, 100)
    check_deterministic(net, train[0][0])  # the first one in a process imports parts of torch, which draw
    seen = builders.watch_batch_sizes(net)
    fit(net, train, val, structure=structure, tuning=tuning)
    for k in range(3):
        sizes = [size for stage, size in seen if stage == k]
        checked, tried, costs = [2, 2], [3, 2, 1], [1]
        expected = [len(x) for x, _ in val] + checked + tried + costs
        if structure is not None:
            expected += [len(x) for x, _ in train] + tried
        assert sorted(sizes) == sorted(expected)


def test_without_a_validation_set_each_stage_runs_once_per_training_batch_and_more_often_only_on_few_examples():
    net = builders.network()
    train = data(net)
    seen = builders.watch_batch_sizes(net)
    calibrate(net, train, None, tuning="evidence")
    for k in range(3):
        assert sorted(size for stage, size in seen if stage == k) == sorted(
            [len(x) for x, _ in train] + [2, 2] + [3, 2, 1] + [1]
        )


def test_without_a_structure_the_training_data_are_not_read():
    class Untouchable:
        def __iter__(self):
            raise AssertionError("read")

    net = builders.network()
    calibrated = fit(net, Untouchable(), structure=None)
    assert all(exit_.posterior is None for exit_ in calibrated.exits)
    assert calibrated.exits[0].prior_precision is None
    with pytest.raises(AssertionError, match="read"):
        fit(net, Untouchable())


@pytest.mark.parametrize(
    "choices", [{}, {"structure": None, "ensemble": False, "temperature": False}, {"structure": None, "val": None}]
)
def test_without_training_data_a_fit_that_needs_them_is_refused(choices):
    network, options = builders.network(), {"tuning": "evidence", **choices}
    val_loader = options.pop("val", data(network))
    with pytest.raises(TypeError, match=r"expected a train_loader of batches \(x, y\), got None; it may be None only"):
        calibrate(network, None, val_loader, **options)


def test_the_vanilla_row_is_the_networks_own_answer():
    net = builders.network()
    calibrated = fit(net, structure=None, temperature=False, ensemble=False)
    for answer, logits in zip(calibrated(X), net(X), strict=True):
        torch.testing.assert_close(answer.log_probs, logits.log_softmax(dim=1))
    assert calibrated.costs.cumulative == calibrated.costs.network


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prior": "factored"},
        {"link": "plugin"},
        {"ensemble": False},
        {"temperature": False},
        {"structure": None},
        {"structure": None, "ensemble": False},
    ],
    ids=str,
)
def test_tuning_lowers_the_summed_nll_of_the_data_it_sees(options):
    net = builders.network()
    val = data(net, 100)
    labels = torch.cat([y for _, y in val])

    def nll(calibrated):
        return sum(float(suffice.metrics.nll(p.log_probs, labels)) for p in calibrated(X[:100]))

    calibrated = fit(net, val=val, **options)
    before = Calibrated(
        net,
        [(exit_.with_prior(1.0) if exit_.samples else exit_).with_temperature(1.0) for exit_ in calibrated.exits],
        calibrated.ensemble,
        calibrated.costs,
        calibrated.network_hash,
    )
    assert nll(calibrated) < nll(before)


def test_the_plugin_link_keeps_a_posterior_with_a_prior_precision_of_one():
    net = builders.network()
    exit_ = fit(net, link="plugin").exits[0]
    assert exit_.prior_precision == 1
    assert exit_.macs == 0
    phi = torch.cat([net.stages[0](X), torch.ones(len(X), 1)], dim=1)
    assert exit_.posterior.moments(phi, net(X)[0]).variance.shape == (120, 4)


def test_the_posterior_is_that_of_all_training_examples_whatever_their_batches():
    net = builders.network(widths=(6,)).double()
    one, many = fit(net, data(net, size=120)), fit(net, data(net, size=7))
    for a, b in zip(one(X.double()), many(X.double()), strict=True):
        torch.testing.assert_close(a.probs, b.probs, rtol=1e-6, atol=1e-8)
    assert one.exits[0].posterior.count == many.exits[0].posterior.count == 120


def test_weights_are_untouched_and_the_network_is_left_in_its_mode():
    net = nn_with_batchnorm().train()
    before, loader = copy.deepcopy(net.state_dict()), data(copy.deepcopy(net).eval())
    calibrated = fit(net, loader, loader)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert calibrated.network is net
    assert calibrated.network_hash == fingerprint(net)
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def nn_with_batchnorm():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = [nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))]
        return ExitNetwork(stages, [Exit(nn.Identity(), nn.Linear(8, 4))])


def test_a_failed_calibration_gives_the_modes_back():
    net = nn_with_batchnorm().train()
    net.stages[0][3].eval()
    modes = [module.training for module in net.modules()]
    with pytest.raises(ValueError, match="empty loader"):
        fit(net, data(copy.deepcopy(net).eval()), [])
    assert [module.training for module in net.modules()] == modes


def test_its_repr_has_the_choices_and_tuned_values(calibrated):
    first, *exits = repr(calibrated).splitlines()
    assert first == "Calibrated(classification, 4 outputs, ensemble='average')"
    for k, (line, exit_) in enumerate(zip(exits, calibrated.exits, strict=True)):
        assert line.startswith(f"  exit {k}: {calibrated.costs.cumulative[k]:,} multiply-adds, ")
        assert line.endswith(f"T {exit_.temperature:.3g}, δ {exit_.prior_precision:.3g} (sampled)")
    assert "δ" not in repr(fit(builders.network(), structure=None))


def test_a_plain_classifier_is_a_network_of_one_exit():
    calibrated = fit(builders.network(widths=(6,)))
    (answer,) = calibrated(X)
    assert len(answer.members) == 1
    torch.testing.assert_close(answer.probs, answer.members[0].probs)


def test_classifiers_without_a_bias_have_a_posterior_over_their_weights_alone():
    net = builders.network(widths=(6, 5), bias=False)
    calibrated = fit(net)
    assert [len(exit_.posterior.feature_values) for exit_ in calibrated.exits] == [6, 5]
    assert all(answer.probs.isfinite().all() for answer in calibrated(X))
    with_bias = fit(builders.network(widths=(6, 5)))
    assert [len(exit_.posterior.feature_values) for exit_ in with_bias.exits] == [7, 6]


@pytest.mark.parametrize("structure", ["kronecker", "full", "blocks", "diagonal", "lowrank"])
@pytest.mark.filterwarnings("ignore:expected outputs that differ between inputs")
def test_precisions_of_bias_and_classes_are_those_of_the_dense_prior(structure):
    """The data carry no information, so the covariance is that of the prior: ‖φ‖²/(δγ_c) + 1/(δβγ_c)."""
    net = builders.network(widths=(6,)).double()
    with torch.no_grad():
        net.exit(0).classifier.weight.zero_()
        net.exit(0).classifier.bias.copy_(torch.tensor([1e4, 0, 0, 0]))
    gamma = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    loader = builders.batched(X, torch.zeros(120, dtype=torch.long))
    options = {"link": "probit", "temperature": False, "bias_precision": 0.1, "class_precision": gamma}
    exit_ = fit(net, loader, loader, structure=structure, **options).exits[0].with_prior(3.0)
    phi, logits = net.stages[0](X.double()), net(X.double())[0]
    variance = exit_.posterior.moments(with_bias(phi, exit_.bias), logits).variance
    expected = (phi.square().sum(dim=1, keepdim=True) + 1 / 0.1) / (3 * gamma)
    torch.testing.assert_close(variance, expected.detach(), rtol=1e-6, atol=0)


def test_nested_states_are_calibrated():
    calibrated = fit(builders.network(nested=True))
    assert [answer.probs.shape for answer in calibrated(X)] == [(120, 4)] * 3


@pytest.mark.parametrize(
    ("dtype", "served"),
    [(torch.bfloat16, torch.float32), (torch.float64, torch.float64), (torch.float32, torch.float32)],
)
def test_answers_are_in_the_networks_type_but_no_less_than_float32_and_posteriors_in_float64(dtype, served):
    loader = data(builders.network())
    net = builders.network().to(dtype)
    calibrated = fit(net, loader, loader)
    for exit_, answer in zip(calibrated.exits, calibrated(X.to(dtype)), strict=True):
        assert exit_.posterior.class_values.dtype == torch.float64
        assert exit_.offsets.values.dtype == answer.probs.dtype == served
        assert answer.probs.isfinite().all()
    reference = fit(builders.network().double(), loader, loader)(X.double())[-1].probs
    error = (calibrated(X.to(dtype))[-1].probs.double() - reference).abs().max()
    assert error < (0.1 if dtype == torch.bfloat16 else 1e-3)


def test_a_class_without_examples_has_finite_predictions():
    net = builders.network()
    with torch.no_grad():
        net.exit(2).classifier.bias[3] = -1e4
    loader = [(x, y.clamp(max=2)) for x, y in data(net)]
    answers = fit(net, loader, loader)(X)
    assert all(answer.log_probs.isfinite().all() for answer in answers)
    assert (answers[2].members[2].probs[:, 3] < 1e-6).all()


def test_a_batch_of_one_has_the_predictions_of_a_larger_batch(calibrated):
    for whole, alone in zip(calibrated(X), calibrated(X[5:6]), strict=True):
        torch.testing.assert_close(alone.probs, whole.probs[5:6])
        torch.testing.assert_close(alone.aleatoric, whole.aleatoric[5:6])


def test_batches_of_one_calibrate():
    net = builders.network(widths=(6,))
    train, val = data(net, 20, size=1), data(net, 20, size=1)
    assert fit(net, train, val).exits[0].posterior.count == 20


def test_moving_a_calibrated_network_gives_the_same_answers(calibrated):
    assert same(calibrated, calibrated.to("cpu"))


def test_a_network_moved_to_another_type_is_served_in_it():
    calibrated = fit(builders.network())
    expected = calibrated(X)[-1].probs
    calibrated.network.double()
    moved = calibrated.to("cpu")
    assert moved(X.double())[-1].probs.dtype == torch.float64
    torch.testing.assert_close(moved(X.double())[-1].probs.float(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("likelihood", OUTPUTS)
def test_a_loader_on_another_device_is_moved_and_posteriors_follow_the_network(likelihood):
    loader = builders.batched(X, targets_for(likelihood, X))
    net = builders.network(classes=OUTPUTS[likelihood])
    here = fit(net, loader, loader, likelihood=likelihood)(X)
    calibrated = fit(net.cuda(), loader, loader, likelihood=likelihood)
    assert all(exit_.posterior.prior_precision.is_cuda for exit_ in calibrated.exits)
    for there, answer in zip(calibrated(X.cuda()), here, strict=True):
        torch.testing.assert_close(uncertainty_of(there).cpu(), uncertainty_of(answer), rtol=1e-2, atol=1e-3)


class TestBadInput:
    @pytest.mark.parametrize("model", ["network", None])
    def test_anything_but_a_module_is_a_type_error(self, model):
        with pytest.raises(TypeError, match=r"an nn\.Module or a suffice\.ExitNetwork, got \w+$"):
            calibrate(model, [], [])

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("structure", "full-ish"),
            ("prior", "other"),
            ("link", "laplace-bridge"),
            ("prior", None),
            ("tuning", "guess"),
            ("likelihood", "poisson"),
        ],
    )
    def test_an_unknown_choice_is_refused_with_the_choices_before_data_are_read(self, option, value):
        with pytest.raises(ValueError, match=rf"expected {option} to be one of \(.*\), got {value!r}"):
            calibrate(builders.network(), [], [], **{option: value})

    def test_an_odd_number_of_samples_is_refused(self):
        net = builders.network()
        with pytest.raises(ValueError, match="even number of samples of at least 2, got 7"):
            calibrate(net, data(net), data(net), samples=7)

    @pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_precision_of_the_bias_that_is_not_above_zero_is_refused(self, beta):
        with pytest.raises(ValueError, match=rf"expected bias_precision as a number above 0, .* got {beta}"):
            fit(builders.network(), bias_precision=beta)

    def test_precisions_of_classes_are_one_for_each_and_above_zero(self):
        with pytest.raises(ValueError, match=r"class_precision of shape \(4,\), .* got \(3,\)"):
            fit(builders.network(), class_precision=torch.ones(3))
        with pytest.raises(ValueError, match=r"class_precision above 0, got -2.0 for class 1"):
            fit(builders.network(), class_precision=torch.tensor([1.0, -2.0, 1.0, 0.0]))

    @pytest.mark.parametrize("which", ["train", "val"])
    def test_an_empty_loader_is_refused(self, which):
        with pytest.raises(ValueError, match="empty loader"):
            fit(builders.network(), **{which: []})

    def test_one_generator_for_both_passes_is_refused_with_the_reason(self):
        net = builders.network()
        generator = (batch for batch in data(net))
        with pytest.raises(ValueError, match="a generator is empty the second time"):
            fit(net, generator, generator)

    @pytest.mark.parametrize("label", [4, -1])
    def test_a_label_out_of_range_is_named_with_its_position(self, label):
        net = builders.network()
        val = data(net, 100)
        val[2][1][5] = label
        with pytest.raises(ValueError, match=rf"labels in \[0, 4\), got {label} at position 69"):
            fit(net, val=val)

    @pytest.mark.parametrize("change", [torch.Tensor.float, lambda y: y[:-1], lambda y: y[:, None]])
    def test_labels_of_a_wrong_type_or_shape_are_refused(self, change):
        net = builders.network()
        with pytest.raises(ValueError, match=r"expected integer labels of shape \(32,\)"):
            fit(net, val=[(x, change(y)) for x, y in data(net, 96)])

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    @pytest.mark.parametrize("which", ["train", "val"])
    def test_inputs_that_are_not_finite_are_named_by_position_across_batches(self, which, bad):
        net = builders.network()
        loader = [(x.clone(), y) for x, y in data(net, 100)]
        loader[1][0][3, 1] = bad
        with pytest.raises(ValueError, match=r"expected finite inputs, .* at position 35 "):
            fit(net, **{which: loader})

    @pytest.mark.parametrize("which", ["train", "val"])
    def test_features_that_are_not_finite_are_named_with_exit_and_position(self, which):
        class Reciprocal(nn.Module):
            def forward(self, state):
                return 1 / state

        exits = [Exit(features, nn.Linear(3, 4)) for features in (nn.Identity(), Reciprocal())]
        net = ExitNetwork([nn.Identity(), nn.Identity()], exits)
        loaders = {"train": data(net), "val": data(net)}
        loaders[which] = [(x.clone(), y) for x, y in loaders[which]]
        loaders[which][2][0][4, 1] = 0
        with pytest.raises(ValueError, match=r"expected finite features at exit 1, .* at position 68 "):
            fit(net, **loaders)

    @pytest.mark.parametrize("likelihood", OUTPUTS)
    def test_one_bad_batch_in_a_thousand_is_named_and_leaves_nothing_behind(self, likelihood):
        net, x = builders.network(widths=(4,), classes=OUTPUTS[likelihood]), builders.inputs(2000)
        good = builders.batched(x, targets_for(likelihood, x), 2)
        bad = [(batch.clone(), labels) for batch, labels in good]
        bad[617][0][1, 2] = float("nan")
        before = fit(net, good, good, likelihood=likelihood)
        with pytest.raises(ValueError, match=r"finite inputs, .* at position 1235 \(1 of 2 examples in its batch\)"):
            fit(net, bad, good, likelihood=likelihood)
        assert fit(net, good, good, likelihood=likelihood).digest == before.digest

    def test_features_beyond_float16_are_named_with_the_remedy(self):
        net = builders.network(widths=(6,)).half()
        net.stages[0] = nn.Linear(3, 6).half()
        with torch.no_grad():
            net.stages[0].weight.fill_(3e4)
        remedy = "bfloat16 or float32: float16 ends at 65504"
        with pytest.raises(ValueError, match=rf"finite features at exit 0, .* {remedy}"):
            fit(net, data(builders.network(widths=(6,))), data(builders.network(widths=(6,))))

    def test_a_classifier_of_one_output_is_refused_with_the_likelihoods_that_have_one(self):
        with pytest.raises(ValueError, match=r"2 outputs or more, .* with 1; pass likelihood='binary' .* 'regression'"):
            calibrate(builders.network(classes=1), [(X, X[:, 0])], [])

    @pytest.mark.parametrize("likelihood", OUTPUTS)
    @pytest.mark.filterwarnings("ignore:expected labels that the outputs predict")
    def test_fewer_examples_than_features_and_constant_features_calibrate(self, likelihood):
        net = builders.network(widths=(12,), classes=OUTPUTS[likelihood])
        with torch.no_grad():
            net.stages[0][0].weight[:2] = 0  # two features that are constant, as the bias is
        y = targets_for(likelihood, X)
        (answer,) = fit(net, [(X[:5], y[:5])], [(X, y)], likelihood=likelihood)(X)
        assert uncertainty_of(answer).isfinite().all()

    def test_weights_that_are_not_finite_are_refused_at_the_logits(self):
        net = builders.network()
        loader = data(net)
        with torch.no_grad():
            net.exit(1).classifier.weight[0, 0] = float("nan")
        with pytest.raises(ValueError, match=r"expected finite logits at exit 1, .* at position 0 "):
            fit(net, loader, loader)

    def test_an_input_that_is_not_finite_is_refused_by_the_call(self, calibrated):
        x = X.clone()
        x[7] = float("nan")
        with pytest.raises(ValueError, match=r"finite logits at exit 0, .* at position 7 "):
            calibrated(x)

    def test_a_prior_needs_a_posterior(self):
        exit_ = fit(builders.network(), structure=None).exits[0]
        with pytest.raises(ValueError, match="expected an exit with a posterior"):
            exit_.with_prior(2.0)


@pytest.mark.filterwarnings("ignore:the (prior precision|temperature) of exit")
@pytest.mark.parametrize(
    "structure", ["kronecker", "full", "blocks", "diagonal", pytest.param("lowrank", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("link", ["sampled", "meanfield", "probit", "plugin"])
def test_every_structure_goes_with_every_link_and_survives_saving(structure, link, tmp_path):
    net, x = builders.network(), builders.inputs(200)
    loader = builders.batched(x, builders.sampled_labels(net(x)[-1], temperature=2.0))
    calibrated = calibrate(
        net, loader, loader, structure=structure, link=link, generator=torch.Generator().manual_seed(0)
    )
    plain = calibrate(net, loader, loader, structure=None)
    labels = torch.cat([y for _, y in loader])

    def loss(network):
        return sum(float(metrics.nll(prediction.log_probs, labels)) for prediction in network(x))

    assert loss(calibrated) <= loss(plain) + 1e-3  # tuned on the same data; a large δ is the plain network
    suffice.save(calibrated, tmp_path / "c")
    for before, after in zip(calibrated(x), suffice.load(tmp_path / "c", network=net)(x), strict=True):
        assert torch.equal(before.log_probs, after.log_probs)


def test_the_factored_prior_is_for_products_of_factors():
    with pytest.raises(ValueError, match="expected prior 'exact' with structure 'full'"):
        calibrate(builders.network(), [], [], structure="full", prior="factored")


def test_a_structure_that_does_not_fit_at_all_exits_is_refused_with_those_that_do(monkeypatch):
    net = builders.network()
    widths = [net.exit(k).classifier.in_features + 1 for k in range(len(net.exits))]
    needed = sum(8 * 4 * (width * 4) ** 2 for width in widths)
    monkeypatch.setattr("suffice.calibration.posterior._available", lambda device: needed - 1)
    loader = builders.batched(builders.inputs(20))
    with pytest.raises(MemoryError, match=r"structure='kronecker' or 'blocks' or 'diagonal'"):
        calibrate(net, loader, loader, structure="full")


def test_a_full_posterior_that_would_take_minutes_is_refused():
    loader = [(torch.randn(20, 128), torch.arange(20))]
    with pytest.raises(ValueError, match=r"at most 8,192 weights for a full posterior.*got 12,900 \(129 features, 100"):
        calibrate(torch.nn.Sequential(torch.nn.Linear(128, 100)), loader, loader, structure="full")


def test_a_product_of_exits_is_tuned_predicted_run_and_saved(tmp_path):
    net, x = builders.network(), builders.inputs(300)
    loader = builders.batched(x, builders.sampled_labels(net(x)[-1]))
    calibrations = {
        name: suffice.calibrate(
            net, loader, loader, ensemble=name, ensemble_weights="cost", generator=torch.Generator().manual_seed(0)
        )
        for name in ("product", "average", True)
    }
    product = calibrations["product"](x)
    for k, answer in enumerate(product):
        weights = torch.tensor(shares_of_cost(calibrations["product"].costs)[: k + 1])
        logs = torch.stack([member.log_probs for member in answer.members])
        expected = ((weights / weights.sum())[:, None, None] * logs).sum(dim=0).log_softmax(dim=1)
        torch.testing.assert_close(answer.log_probs, expected)
    assert calibrations["product"].digest == calibrations[True].digest != calibrations["average"].digest
    policy = suffice.allocate(calibrations["product"], loader, 0.6)
    answer = suffice.run(calibrations["product"], policy, x)
    expected = torch.stack([p.probs for p in product])[answer.exit, torch.arange(300)]
    torch.testing.assert_close(answer.probs, expected, atol=1e-5, rtol=0)
    suffice.save(calibrations["product"], tmp_path / "p")
    torch.testing.assert_close(suffice.load(tmp_path / "p", network=net)(x)[-1].probs, product[-1].probs)


def test_an_unknown_ensemble_is_refused():
    with pytest.raises(ValueError, match=r"expected ensemble to be one of .*, got 'sum'"):
        suffice.calibrate(builders.network(), [], [], ensemble="sum")


def test_tuned_weights_favor_an_exit_that_is_much_better_than_the_earlier_ones():
    """Labels are sampled from the last exit; the earlier exits are other random functions."""
    net, x = builders.network(), builders.inputs(2000)
    labels = builders.sampled_labels(net(x)[-1])
    loader = builders.batched(x, labels, 500)

    def last(**choices):
        calibrated = calibrate(net, [], loader, structure=None, **{"ensemble": "average", **choices})
        return calibrated, float(metrics.nll(calibrated(x)[-1].log_probs, labels))

    _, by_cost = last(ensemble_weights="cost")
    _, alone = last(ensemble=False)
    tuned, by_tuning = last(ensemble_weights="tuned")
    assert alone < by_cost - 0.05
    assert by_tuning < alone + 0.01
    assert tuned.weights[-1] > 10 * sum(tuned.weights[:-1])


@pytest.mark.parametrize("ensemble", ["average", "product"])
def test_tuned_weights_are_no_worse_than_those_by_cost(ensemble):
    net, x = builders.network(), builders.inputs(2000)
    loader = builders.batched(x, builders.sampled_labels(sum(net(x))), 500)

    def loss(**choices):
        calibrated = calibrate(net, [], loader, structure=None, ensemble=ensemble, **choices)
        return sum(float(metrics.nll(p.log_probs, y)) for x, y in loader for p in calibrated(x))

    assert loss(ensemble_weights="tuned") < loss(ensemble_weights="cost") - 0.01


@pytest.mark.filterwarnings("ignore:expected labels that the outputs predict")
def test_tuned_weights_are_used_by_the_call_and_run_and_are_saved(tmp_path):
    net, x = builders.network(), builders.inputs(300)
    loader = builders.batched(x, builders.sampled_labels(net(x)[1]))
    calibrations = {choice: fit(net, loader, loader, ensemble_weights=choice) for choice in ("cost", "tuned")}
    tuned, predictions = calibrations["tuned"], calibrations["tuned"](x)
    assert calibrations["cost"].weights == shares_of_cost(tuned.costs)
    assert calibrations["cost"].digest != tuned.digest
    for k, answer in enumerate(predictions):
        share = torch.tensor(tuned.weights[: k + 1])
        probs = torch.stack([member.probs for member in answer.members])
        torch.testing.assert_close(answer.probs, ((share / share.sum())[:, None, None] * probs).sum(dim=0))
    policy = suffice.allocate(tuned, loader, 0.6)
    answer = suffice.run(tuned, policy, x)
    expected = torch.stack([prediction.probs for prediction in predictions])[answer.exit, torch.arange(300)]
    torch.testing.assert_close(answer.probs, expected, atol=1e-5, rtol=0)
    suffice.save(tuned, tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=net)
    assert again.weights == tuned.weights
    assert again.digest == tuned.digest


@pytest.mark.parametrize("choices", [{"ensemble": False}, {"tuning": "grid"}])
def test_weights_are_tuned_of_an_ensemble_and_by_gradient(choices):
    with pytest.raises(ValueError, match=r"expected ensemble_weights 'cost' with .*, got 'tuned'"):
        calibrate(builders.network(), [], [], ensemble_weights="tuned", **choices)


def test_weights_are_not_tuned_without_validation_data():
    with pytest.raises(ValueError, match="expected a val_loader for ensemble_weights='tuned', got None"):
        calibrate(builders.network(), [], None, tuning="evidence", ensemble_weights="tuned")


def test_a_data_set_in_place_of_validation_batches_is_refused_before_the_training_data_are_read():
    def untouched():
        raise AssertionError("read")
        yield

    held = torch.utils.data.TensorDataset(builders.inputs(4), torch.zeros(4, dtype=torch.long))
    with pytest.raises(TypeError, match="got a Dataset of single examples; wrap it in a DataLoader"):
        calibrate(builders.network(), untouched(), held)


@anywhere
@pytest.mark.parametrize("tuning", ["validation", "evidence"])
def test_ambient_modes_change_nothing(surrounding, tuning):
    net = builders.network()
    loader, generator = data(net), torch.Generator()
    choices = {"samples": 8, "tuning": tuning, "generator": generator}
    expected = calibrate(net, loader, loader, **choices)
    generator.manual_seed(generator.initial_seed())
    with surrounding():
        result = calibrate(net, loader, loader, **choices)
        assert same(result, expected)
    assert result.digest == expected.digest
    assert same(result.with_temperature(2.0), expected.with_temperature(2.0))


@pytest.mark.parametrize("plain", [False, True])
def test_random_numbers_in_evaluation_mode_are_refused_by_name_however_rare_their_effect(plain):
    class Rarely(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 1e-4)

    stage, head = nn.Sequential(nn.Linear(4, 4), Rarely()), nn.Linear(4, 3)
    model = nn.Sequential(stage, head) if plain else ExitNetwork([stage], [Exit(nn.Identity(), head)])
    batches = [(torch.randn(9, 4), torch.arange(9) % 3)]
    with pytest.raises(ValueError, match="deterministic in evaluation mode, got random numbers from bernoulli_ in mod"):
        calibrate(model.eval(), batches, batches, structure=None)
