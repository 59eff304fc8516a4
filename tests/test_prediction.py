import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn

from suffice import Multilabel, Prediction, Regression, evaluation, metrics
from suffice.budget import scores
from suffice.prediction import concatenate, entropy, without_members
from tests import builders


def classes(n=6, seed=0):
    log_probs = builders.inputs(n, 3, seed=seed).double().log_softmax(dim=1)
    return Prediction(log_probs, entropy(log_probs) / 2)


def regression(n=6, outputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean, epistemic, noise = torch.randn(3, n, outputs, generator=generator, dtype=torch.float64)
    return Regression(mean, epistemic.exp(), noise.exp())


KINDS = [pytest.param(classes, id="classes"), pytest.param(regression, id="regression")]


def test_entropy_of_known_distributions():
    probs = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]], dtype=torch.float64)
    expected = torch.tensor([math.log(4), 0.0, math.log(2)], dtype=torch.float64)
    torch.testing.assert_close(entropy(probs.log()), expected)


def test_the_fields_follow_from_the_log_probabilities():
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)
    prediction = Prediction(probs.log(), torch.tensor([0.5, 0.2], dtype=torch.float64))
    torch.testing.assert_close(prediction.probs, probs)
    assert prediction.label.tolist() == [0, 2]
    torch.testing.assert_close(prediction.confidence, probs.amax(dim=1))
    torch.testing.assert_close(prediction.epistemic, prediction.entropy - prediction.aleatoric)
    assert len(prediction) == 2


def test_epistemic_is_never_negative():
    prediction = Prediction(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([0.7]))
    assert prediction.entropy < 0.7
    assert prediction.epistemic == 0


def test_taking_and_joining_reach_the_members():
    whole = replace(classes(), members=(classes(seed=1), classes(seed=2)))
    parts = [whole.take(torch.tensor([3, 0])), whole.take(torch.tensor([1]))]
    joined, expected = concatenate(parts), whole.take(torch.tensor([3, 0, 1]))
    assert len(joined.members) == 2
    for got, want in zip((joined, *joined.members), (expected, *expected.members), strict=True):
        assert torch.equal(got.log_probs, want.log_probs)
        assert torch.equal(got.aleatoric, want.aleatoric)


@pytest.mark.parametrize("structure", ["kronecker", None])
def test_an_ensemble_splits_its_entropy_by_the_weights_of_its_members(structure):
    """Aleatoric is the mean of the members' expected entropies, weighted by cumulative multiply-adds."""
    net, x = builders.network(), builders.inputs(40)
    calibrated = builders.untuned(net, x, structure)
    alone = builders.untuned(net, x, structure, ensemble=False)(x)
    weights = torch.tensor(calibrated.costs.network, dtype=torch.float32)
    for k, answer in enumerate(calibrated(x)):
        assert len(answer.members) == k + 1
        for member, exit_alone in zip(answer.members, alone, strict=False):
            torch.testing.assert_close(member.probs, exit_alone.probs)
            torch.testing.assert_close(member.aleatoric, exit_alone.aleatoric)
        share = weights[: k + 1] / weights[: k + 1].sum()
        probs = sum(w * member.probs for w, member in zip(share, answer.members, strict=True))
        aleatoric = sum(w * member.aleatoric for w, member in zip(share, answer.members, strict=True))
        torch.testing.assert_close(answer.probs, probs)
        torch.testing.assert_close(answer.aleatoric, aleatoric)
        torch.testing.assert_close(answer.entropy, torch.special.entr(probs).sum(dim=1))
        torch.testing.assert_close(answer.epistemic, answer.entropy - aleatoric, atol=1e-6, rtol=1e-4)


def test_without_posterior_and_ensemble_all_uncertainty_is_aleatoric():
    net, x = builders.network(), builders.inputs(20)
    for answer in builders.untuned(net, x, None, ensemble=False)(x):
        assert answer.members == ()
        assert (answer.epistemic == 0).all()
        torch.testing.assert_close(answer.aleatoric, answer.entropy)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    scale=st.floats(0.01, 100),
    temperature=st.floats(0.1, 5),
    ensemble=st.sampled_from(["average", "product", False]),
    structure=st.sampled_from(["kronecker", None]),
)
def test_every_answer_is_a_distribution_and_aleatoric_is_at_most_the_entropy(
    seed, scale, temperature, ensemble, structure
):
    x = builders.inputs(20, seed=seed)
    net = builders.network(seed=seed, scale=scale)
    for answer in builders.untuned(net, x, structure, ensemble, temperature=temperature)(x):
        torch.testing.assert_close(answer.probs.sum(dim=1), torch.ones(20), atol=1e-5, rtol=0)
        assert (answer.probs <= 1 + 1e-6).all()
        assert (answer.aleatoric <= answer.entropy + 1e-5).all()
        assert (answer.epistemic >= 0).all()
        assert (answer.aleatoric >= -1e-6).all()


GIVEN = regression()


def test_the_variance_is_that_of_the_mean_and_the_noise_together():
    torch.testing.assert_close(GIVEN.variance, GIVEN.epistemic_variance + GIVEN.noise_variance)
    torch.testing.assert_close(GIVEN.std.square(), GIVEN.variance)


def test_the_log_density_agrees_with_scipy_summed_over_the_outputs():
    targets = regression(seed=1).mean
    expected = stats.norm(GIVEN.mean, GIVEN.std).logpdf(targets).sum(axis=1)
    torch.testing.assert_close(GIVEN.log_density(targets), torch.from_numpy(expected))


def test_targets_of_a_single_output_may_be_a_vector_or_a_column():
    single = regression(outputs=1)
    targets = torch.arange(6.0, dtype=torch.float64)
    assert torch.equal(single.log_density(targets), single.log_density(targets[:, None]))
    assert single.log_density(targets).shape == (6,)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.999])
def test_an_interval_contains_its_share_of_the_gaussian(level):
    low, high = stats.norm(GIVEN.mean, GIVEN.std).interval(level)
    for got, expected in zip(GIVEN.interval(level), (low, high), strict=True):
        torch.testing.assert_close(got, torch.from_numpy(expected))


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_that_is_not_a_probability_is_refused(level):
    with pytest.raises(ValueError, match=f"level between 0 and 1, got {level}; 0.95 is 95 %"):
        GIVEN.interval(level)


def test_taking_and_joining_examples_of_a_regression_keeps_every_field_and_the_members():
    whole = Regression(GIVEN.mean, GIVEN.epistemic_variance, GIVEN.noise_variance, (regression(seed=2), GIVEN))
    index = torch.tensor([4, 0])
    taken = whole.take(index)
    assert len(taken) == 2
    for before, after in [(whole, taken), *zip(whole.members, taken.members, strict=True)]:
        for field in ("mean", "epistemic_variance", "noise_variance"):
            assert torch.equal(getattr(after, field), getattr(before, field)[index])
    again = concatenate([whole.take(torch.arange(4)), whole.take(torch.arange(4, 6))])
    assert isinstance(again, Regression)
    assert torch.equal(again.members[0].noise_variance, whole.members[0].noise_variance)
    assert torch.equal(again.epistemic_variance, whole.epistemic_variance)


def test_a_prediction_is_described_in_one_line():
    assert repr(classes()) == "Prediction(6 examples, 3 classes)"
    assert repr(replace(regression(1), members=(regression(1), regression(1)))) == (
        "Regression(1 examples, 3 outputs, ensemble of 2)"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_names_the_scores_and_measures_that_apply(kind):
    prediction = kind()
    labels = torch.arange(6) % 3 if prediction.kind == "classification" else torch.zeros(6, 3)
    assert tuple(prediction.measures(labels)) == prediction.measure_names
    assert evaluation.measure(prediction, labels) == prediction.measures(labels)
    assert set(prediction.score_names) <= scores.SCORES.keys()
    for name in set(scores.SCORES) - set(prediction.score_names):
        with pytest.raises(ValueError, match=f"expected a score of a {type(prediction).__name__}"):
            scores.evaluate(scores.SCORES[name], prediction, None, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_soundness_are_finite_and_a_nan_in_any_field_makes_soundness_nan(kind):
    prediction = kind()
    assert prediction.default_score.shape == prediction.epistemic_score.shape == (6,)
    assert prediction.outputs.shape[0] == len(prediction) == 6
    assert prediction.soundness.isfinite().all()
    for field in fields(prediction):
        if isinstance(value := getattr(prediction, field.name), torch.Tensor):
            value = value.clone()
            value[4] = torch.nan
            assert replace(prediction, **{field.name: value}).soundness.isfinite().tolist() == [True] * 4 + [
                False,
                True,
            ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_without_members_keeps_every_other_field(kind):
    single = kind()
    copy = without_members(replace(single, members=(single,)))
    assert copy.members == ()
    for field in fields(single):
        before, after = getattr(single, field.name), getattr(copy, field.name)
        assert torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after


def test_the_chance_of_being_correct_is_the_confidence_and_not_defined_for_a_regression():
    assert torch.equal(classes().chance_correct, classes().confidence.double())
    assert regression().chance_correct.isnan().all()
    assert regression().chance_correct.shape == (6,)


def test_losses_average_to_the_error_rate_and_the_brier_score():
    prediction, labels = classes(), torch.arange(6) % 3
    error_rate = 1 - metrics.accuracy(prediction.probs, labels)
    torch.testing.assert_close(prediction.losses(labels, "accuracy").mean(), error_rate)
    torch.testing.assert_close(prediction.losses(labels, "brier").mean(), metrics.brier(prediction.probs, labels))


def test_a_regression_has_no_loss_of_classes():
    with pytest.raises(ValueError, match="expected a prediction of classes for the loss 'brier', got a regression"):
        regression().losses(torch.zeros(6, 3), "brier")


def test_a_streak_grows_while_the_label_repeats_and_starts_again_where_it_changes():
    labels, streak = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 1, 1]]), None
    for row, count in zip(labels, ([1, 1, 1], [2, 1, 2], [3, 2, 1]), strict=True):
        log_probs = torch.eye(2)[row].log_softmax(dim=1)
        prediction, streak = Prediction(log_probs, entropy(log_probs)).count_streak(streak)
        assert prediction.agreeing.tolist() == count


def test_a_regression_has_no_streak():
    prediction = regression()
    assert prediction.count_streak(None) == (prediction, None)


def labels(n=6, count=3, seed=0):
    log_odds = 2 * builders.inputs(n, count, seed=seed).double()
    log_probs = torch.nn.functional.logsigmoid(torch.stack([-log_odds, log_odds], dim=2))
    return Multilabel(log_probs, entropy(log_probs) / 2)


def sets_of(prediction):
    """Probability (N, 2^K) of every set of labels, under independence."""
    sets = torch.cartesian_prod(*[torch.tensor([0, 1])] * prediction.probs.shape[1])
    probs = prediction.probs[:, None]
    return sets, torch.where(sets == 1, probs, 1 - probs).prod(dim=2)


class TestMultilabel:
    def test_the_set_of_labels_is_the_most_probable_one_and_its_entropy_the_sum_over_labels(self):
        prediction = labels()
        sets, joint = sets_of(prediction)
        assert torch.equal(sets[joint.argmax(dim=1)], prediction.label)
        torch.testing.assert_close(torch.special.entr(joint).sum(dim=1), prediction.entropy)
        torch.testing.assert_close(prediction.epistemic, prediction.entropy - prediction.aleatoric)
        torch.testing.assert_close(prediction.label_epistemic.sum(dim=1), prediction.epistemic)

    def test_the_margin_is_between_the_two_most_probable_sets(self):
        best = sets_of(labels())[1].log().topk(2, dim=1).values
        torch.testing.assert_close(labels().margin, best[:, 0] - best[:, 1])

    def test_the_confidence_is_the_expected_share_of_right_labels(self):
        prediction = labels()
        sets, joint = sets_of(prediction)
        right = (sets == prediction.label[:, None]).double().mean(dim=2)
        expected = (joint * right).sum(dim=1)
        torch.testing.assert_close(prediction.confidence, expected)
        torch.testing.assert_close(prediction.chance_correct, expected)
        torch.testing.assert_close(prediction.log_odds, (expected / (1 - expected)).log())

    def test_scores_keep_their_order_where_probabilities_saturate(self):
        log_odds = torch.tensor([[20.0, -30], [40, -40], [200, -90]])
        log_probs = torch.nn.functional.logsigmoid(torch.stack([-log_odds, log_odds], dim=2))
        certain = Multilabel(log_probs, torch.zeros(3, 2))
        assert (certain.confidence[1:] == 1).all()
        for score in (scores.confidence, scores.margin):
            assert score(certain).diff().min() > 15

    def test_losses_are_the_share_of_wrong_labels_and_the_mean_brier_score(self):
        prediction = labels()
        y = (builders.inputs(6, 3, seed=5) > 0).long()
        wrong = [sum(int(prediction.label[n, c] != y[n, c]) for c in range(3)) / 3 for n in range(6)]
        assert prediction.losses(y, "accuracy").tolist() == pytest.approx(wrong)
        squares = [sum(2 * float(prediction.probs[n, c] - y[n, c]) ** 2 for c in range(3)) / 3 for n in range(6)]
        assert prediction.losses(y, "brier").tolist() == pytest.approx(squares)
        with pytest.raises(ValueError, match="expected the loss 'accuracy' or 'brier' of several labels, got 'nll'"):
            prediction.losses(y, "nll")

    def test_measures_agree_with_scikit_learn(self):
        prediction = labels(200, seed=3)
        generator = torch.Generator().manual_seed(0)
        y = torch.bernoulli(prediction.probs, generator=generator).long()
        measures, probs = prediction.measures(y), prediction.probs
        assert tuple(measures) == Multilabel.measure_names
        expected = {
            "accuracy": 1 - sklearn.hamming_loss(y, prediction.label),
            "subset_accuracy": sklearn.accuracy_score(y, prediction.label),
            "map": sklearn.average_precision_score(y, probs, average="macro"),
            "nll": sum(sklearn.log_loss(y[:, c], probs[:, c]) for c in range(3)),
            "brier": sum(2 * sklearn.brier_score_loss(y[:, c], probs[:, c]) for c in range(3)) / 3,
            "auroc": sklearn.roc_auc_score((prediction.label == y).all(dim=1), prediction.log_odds),
        }
        for name, value in expected.items():
            assert measures[name] == pytest.approx(value), name

    def test_taking_and_joining_reach_the_members_and_the_streak(self):
        counted, _ = labels().count_streak(None)
        whole = replace(counted, members=(labels(seed=1), labels(seed=2)))
        joined = concatenate([whole.take(torch.tensor([3, 0])), whole.take(torch.tensor([1]))])
        expected = whole.take(torch.tensor([3, 0, 1]))
        for got, want in zip((joined, *joined.members), (expected, *expected.members), strict=True):
            assert torch.equal(got.log_probs, want.log_probs)
            assert torch.equal(got.label_aleatoric, want.label_aleatoric)
        assert joined.agreeing.tolist() == [1, 1, 1]
        assert without_members(whole).members == ()
        assert repr(whole) == "Multilabel(6 examples, 3 labels, ensemble of 2)"
        assert len(whole) == 6

    def test_the_streak_ends_with_any_label_that_changes(self):
        log_odds = torch.tensor([[[1.0, 1], [1, 1]], [[1.0, 1], [1, -1]], [[1.0, 1], [1, -1]]])
        streak, counts = None, []
        for exit_ in log_odds:
            log_probs = torch.nn.functional.logsigmoid(torch.stack([-exit_, exit_], dim=2))
            prediction, streak = Multilabel(log_probs, torch.zeros(2, 2)).count_streak(streak)
            counts.append(prediction.agreeing.tolist())
        assert counts == [[1, 1], [2, 1], [3, 2]]

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_one_check_covers_all_fields(self, bad):
        whole = labels()
        for name in ("log_probs", "label_aleatoric"):
            values = getattr(whole, name).clone()
            values[2, 1] = bad
            assert replace(whole, **{name: values}).soundness.isfinite().tolist() == [n != 2 for n in range(6)]
