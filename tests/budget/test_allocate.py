import math
import warnings

import pytest
import torch

from suffice import allocate, run
from suffice.budget import scores
from suffice.budget.thresholds.families import choose, shares_of
from tests import builders
from tests.budget.profiles import planted
from tests.robustness.surroundings import anywhere


class TestAllocate:
    NET = builders.network()
    X = builders.inputs(400)

    def calibrated(self, **options):
        return builders.untuned(self.NET, self.X, **options)

    @pytest.mark.parametrize("budget", [0.4, 0.5, 0.75, 0.9])
    @pytest.mark.parametrize("score", ["confidence", "margin", "entropy", "aleatoric", "epistemic"])
    def test_the_budget_is_met_on_validation_data_and_reported(self, score, budget):
        calibrated = self.calibrated()
        policy = allocate(calibrated, builders.batched(self.X), budget, score=score)
        costs = torch.tensor(calibrated.costs.cumulative, dtype=torch.float64)
        assert policy.budget == pytest.approx(budget * float(costs[-1]))
        assert policy.expected == pytest.approx(policy.budget, rel=0.005)
        assert float(policy.shares @ costs) == pytest.approx(policy.expected)
        assert float(policy.shares.sum()) == pytest.approx(1)
        assert policy.made_for == calibrated.digest
        assert policy.score == score

    def test_the_expected_cost_is_what_the_thresholds_cost_on_the_same_data(self):
        calibrated = self.calibrated()
        policy = allocate(calibrated, builders.batched(self.X), 0.6)
        values = [scores.confidence(answer).double() for answer in calibrated(self.X)]
        taken = choose(values, policy.thresholds)
        mean = float(torch.tensor(calibrated.costs.cumulative).double()[taken].mean())
        assert mean == pytest.approx(policy.expected, rel=0.003)

    def test_a_fraction_is_relative_to_the_last_exit_with_its_uncertainty(self):
        calibrated = self.calibrated()
        total = calibrated.costs.cumulative[-1]
        assert total > calibrated.costs.network[-1]
        by_fraction = allocate(calibrated, builders.batched(self.X), 0.5)
        by_macs = allocate(calibrated, builders.batched(self.X), total / 2, unit="macs")
        assert by_fraction.budget == by_macs.budget == total / 2
        assert torch.equal(by_fraction.thresholds, by_macs.thresholds)

    def test_a_budget_of_exactly_the_first_or_the_last_exit_is_met_exactly(self):
        calibrated = self.calibrated()
        costs = calibrated.costs.cumulative
        first = allocate(calibrated, builders.batched(self.X), costs[0], unit="macs")
        assert (first.expected, first.shares.tolist()) == (costs[0], [1, 0, 0])
        assert first.thresholds[0] == -math.inf
        last = allocate(calibrated, builders.batched(self.X), costs[-1], unit="macs")
        assert (last.expected, last.shares.tolist()) == (costs[-1], [0, 0, 1])
        assert (last.thresholds == math.inf).all()
        assert allocate(calibrated, builders.batched(self.X), 1.0).expected == costs[-1]
        by_fraction = allocate(calibrated, builders.batched(self.X), costs[0] / costs[-1])
        assert by_fraction.expected == costs[0]

    @pytest.mark.parametrize("factor", [0.999, 0.0, -1.0, math.nan])
    def test_a_budget_below_the_first_exit_is_refused_with_the_range(self, factor):
        calibrated = self.calibrated()
        first, *_, last = calibrated.costs.cumulative
        message = rf"between {first:.4g} \(all stop at the first exit\) and {last:.4g} .* in multiply-adds, got"
        with pytest.raises(ValueError, match=message.replace("+", r"\+")):
            allocate(calibrated, builders.batched(self.X), first * factor, unit="macs")

    @pytest.mark.parametrize("budget", [1.001, 50, math.inf])
    def test_a_budget_above_the_last_exit_is_refused_with_the_range(self, budget):
        message = r"and 1 \(none stops early\), in fractions of the last exit, got .*unit='macs'"
        with pytest.raises(ValueError, match=message):
            allocate(self.calibrated(), builders.batched(self.X), budget)

    def test_an_unknown_unit_or_score_is_refused_before_data_are_read(self):
        with pytest.raises(ValueError, match=r"expected unit to be one of .*, got 'euro'"):
            allocate(self.calibrated(), [], 0.5, unit="euro")
        with pytest.raises(ValueError, match="got 'luck'"):
            allocate(self.calibrated(), [], 0.5, score="luck")

    def test_an_empty_loader_is_refused(self):
        with pytest.raises(ValueError, match="empty loader"):
            allocate(self.calibrated(), [], 0.5)

    def test_neither_labels_nor_the_batch_size_matter(self):
        calibrated = self.calibrated()
        labels = torch.zeros(400, dtype=torch.long)
        one = allocate(calibrated, builders.batched(self.X, labels, 400), 0.5)
        many = allocate(calibrated, builders.batched(self.X, size=7), 0.5)
        torch.testing.assert_close(one.thresholds, many.thresholds, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("budget", [0.45, 0.6, 0.9])
    @pytest.mark.parametrize("kind", ["constant", "patience", "coarse"])
    def test_tied_scores_meet_the_budget_by_a_mixture_and_running_spends_the_same(self, kind, budget):
        scores = {
            "constant": lambda prediction, state: torch.zeros(len(prediction)),
            "patience": "patience",
            "coarse": lambda prediction, state: (4 * prediction.confidence).round(),
        }
        x = builders.inputs(2000, seed=3)
        calibrated = self.calibrated()
        policy = allocate(calibrated, builders.batched(x, size=300), budget, score=scores[kind])
        assert policy.expected == pytest.approx(policy.budget, rel=0.005)
        assert kind == "coarse" or 0 < policy.portion < 1
        answer = run(calibrated, policy, x)
        assert float(answer.macs.double().mean()) == pytest.approx(policy.expected)
        assert torch.equal(shares_of(answer.exit, 3), policy.shares)

    def test_a_mixed_policy_stops_an_example_at_the_same_exit_in_any_batch(self):
        calibrated = self.calibrated()
        policy = allocate(calibrated, [self.X], 0.6, score="patience")
        whole = run(calibrated, policy, self.X).exit
        order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
        parts = [run(calibrated, policy, part).exit for part in self.X[order].split(7)]
        assert torch.equal(torch.cat(parts), whole[order])

    def test_identical_examples_cannot_be_split_which_is_a_warning(self):
        calibrated = self.calibrated()
        same = self.X[:1].expand(50, -1)
        with pytest.warns(
            UserWarning, match="expected a mean cost of .* as the nearest on the validation data"
        ) as caught:
            policy = allocate(calibrated, [same], 0.6)
        assert caught[0].filename == __file__
        costs = calibrated.costs.cumulative
        assert policy.expected == min(costs, key=lambda cost: abs(cost - 0.6 * costs[-1]))

    def test_a_score_that_is_not_a_number_is_an_error(self):
        with pytest.raises(ValueError, match="got NaN"):
            allocate(self.calibrated(), [self.X], 0.5, score=lambda p, s: torch.full((len(p),), torch.nan))

    def test_infinite_scores_of_a_function_are_allowed(self):
        def certain_or_not(prediction, state):
            return torch.where(prediction.confidence > 0.6, torch.inf, -torch.inf)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            policy = allocate(self.calibrated(), [self.X], 0.6, score=certain_or_not)
        assert not policy.thresholds.isnan().any()

    def test_a_network_of_one_exit_has_a_policy_without_thresholds(self):
        calibrated = builders.untuned(builders.network(widths=(6,)), self.X)
        policy = allocate(calibrated, [self.X], 1.0)
        assert policy.thresholds.shape == (0,)
        assert policy.shares.tolist() == [1.0]
        assert policy.expected == calibrated.costs.cumulative[0]

    @pytest.mark.parametrize(("budget", "unit"), [(0.5, "fraction"), (1e6, "macs")])
    def test_a_network_of_one_exit_has_no_other_budget(self, budget, unit):
        calibrated = builders.untuned(builders.network(widths=(6,)), self.X)
        with pytest.raises(ValueError, match=r"a single exit, where nothing can stop earlier; suffice.attach_exits"):
            allocate(calibrated, [self.X], budget, unit)

    def test_a_network_that_is_not_calibrated_is_refused(self):
        with pytest.raises(TypeError, match=r"expected a calibrated network, got ExitNetwork; .* suffice.calibrate\("):
            allocate(self.NET, [self.X], 0.6)

    def test_one_validation_example_is_enough(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            policy = allocate(self.calibrated(), [self.X[:1]], 0.5)
        assert policy.shares.sum() == 1

    def test_gradients_are_not_recorded(self):
        assert not allocate(self.calibrated(), [self.X], 0.5).thresholds.requires_grad

    def test_an_unknown_method_is_refused(self):
        with pytest.raises(ValueError, match=r"\('geometric', 'optimal'\), got 'best'"):
            allocate(self.calibrated(), [self.X], 0.5, method="best")

    def test_milliseconds_need_a_profile(self):
        with pytest.raises(ValueError, match=r"expected a profile .* suffice\.cost\.profile"):
            allocate(self.calibrated(), [self.X], 0.5, unit="ms")

    def test_logits_that_are_not_finite_are_named_by_their_position_in_the_whole_pass(self):
        net = builders.poison(builders.network(), self.X, 37)
        calibrated = builders.untuned(net, self.X[100:])
        with pytest.raises(ValueError, match="finite logits at exit 1, got NaN or infinity at position 37 "):
            allocate(calibrated, builders.batched(self.X, size=20), 0.6)


class TestMilliseconds:
    NET = builders.network()
    X = builders.inputs(400)

    def test_a_budget_in_milliseconds_is_met_by_the_times_of_the_profile(self):
        calibrated = builders.untuned(self.NET, self.X)
        profile = planted([1.0, 2.0, 3.0], batch_size=64)
        policy = allocate(calibrated, [self.X], 0.05, unit="ms", profile=profile)
        assert (policy.budget, policy.unit) == (0.05, "ms")
        reaching = policy.shares.flip(0).cumsum(0).flip(0)
        assert float(reaching @ torch.tensor([1.0, 2, 3], dtype=torch.float64)) / 64 == pytest.approx(policy.expected)
        assert policy.expected == pytest.approx(0.05, rel=0.005)

    def test_a_profile_does_not_change_a_budget_in_multiply_adds(self):
        calibrated = builders.untuned(self.NET, self.X)
        plain = allocate(calibrated, [self.X], 0.5)
        timed = allocate(calibrated, [self.X], 0.5, profile=planted([1.0, 9.0, 100.0], batch_size=64))
        assert torch.equal(timed.thresholds, plain.thresholds)
        assert timed.expected == plain.expected

    @pytest.mark.parametrize("budget", [0.0155, 0.094])
    def test_a_budget_outside_the_range_is_refused_in_milliseconds(self, budget):
        calibrated = builders.untuned(self.NET, self.X)
        with pytest.raises(ValueError, match=r"between 0\.01562 .* and 0\.09375 .* in milliseconds, got"):
            allocate(calibrated, [self.X], budget, unit="ms", profile=planted([1.0, 2.0, 3.0], batch_size=64))

    @pytest.mark.parametrize("method", ["geometric", "optimal"])
    def test_no_method_spends_more_milliseconds_than_requested(self, method):
        """Times need not follow the multiply-adds: the second exit is nearly free here."""
        calibrated = builders.untuned(self.NET, self.X)
        policy = allocate(
            calibrated, [self.X], 0.03, unit="ms", profile=planted([1.0, 0.5, 5.0], batch_size=64), method=method
        )
        assert policy.expected <= 0.03 * 1.005


@anywhere
@pytest.mark.parametrize("method", ["geometric", "optimal"])
def test_the_ambient_modes_change_nothing(surrounding, method):
    x = builders.inputs(300)
    calibrated = builders.untuned(builders.network(), x)
    expected = allocate(calibrated, [x], 0.6, method=method)
    with surrounding():
        policy = allocate(calibrated, [x], 0.6, method=method)
        assert torch.equal(run(calibrated, policy, x).probs, run(calibrated, expected, x).probs)
    assert torch.equal(policy.thresholds, expected.thresholds)
    assert not policy.thresholds.is_inference()
