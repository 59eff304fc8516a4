import pytest
import torch

from suffice.budget import scores
from suffice.prediction import Multilabel, Prediction, Regression
from tests import builders


def prediction(*rows):
    log_probs = torch.tensor(rows, dtype=torch.float64).log()
    aleatoric = torch.linspace(0.1, 0.2, len(rows), dtype=torch.float64)
    return Prediction(log_probs, aleatoric)


GIVEN = prediction([0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.1, 0.0, 0.9])


def test_confidence_is_the_log_odds_of_the_most_probable_class():
    probs = torch.tensor([0.7, 0.4, 0.9], dtype=torch.float64)
    torch.testing.assert_close(scores.confidence(GIVEN), (probs / (1 - probs)).log())


def test_confidence_keeps_its_order_where_probabilities_saturate_at_one():
    logits = torch.tensor([[20.0, 0, 0], [40.0, 0, 0], [200.0, 0, 0]])
    certain = Prediction(logits.log_softmax(dim=1), torch.zeros(3))
    assert (certain.confidence[1:] == 1).all()
    assert scores.confidence(certain).diff().min() > 19


def test_margin_is_the_log_ratio_of_the_two_most_probable_classes():
    expected = torch.tensor([0.7 / 0.2, 0.4 / 0.35, 9.0], dtype=torch.float64).log()
    torch.testing.assert_close(scores.margin(GIVEN), expected)


def test_uncertainties_are_negated_so_that_higher_is_more_certain():
    assert torch.equal(scores.entropy(GIVEN), -GIVEN.entropy)
    assert torch.equal(scores.aleatoric(GIVEN), -GIVEN.aleatoric)
    assert torch.equal(scores.epistemic(GIVEN), -GIVEN.epistemic)


@pytest.mark.parametrize("name", ["confidence", "margin", "entropy", "aleatoric", "epistemic"])
def test_every_score_has_a_name(name):
    assert scores.resolve(name) is getattr(scores, name)
    values = scores.evaluate(scores.resolve(name), GIVEN, None, 0)
    assert values.shape == (3,)
    assert values.dtype == torch.float64


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"\['aleatoric', 'confidence', .*\] or a function .* got 'luck'"):
        scores.resolve("luck")


def test_a_function_is_a_score_and_sees_prediction_and_state():
    def score(prediction, state):
        return prediction.confidence + state["bonus"]

    assert scores.resolve(score) is score
    values = scores.evaluate(score, GIVEN, {"bonus": torch.ones(3)}, 0)
    torch.testing.assert_close(values, GIVEN.confidence + 1)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda p: p.confidence, r"accepts \(prediction, state\), got a function with too many positional arguments"),
        (lambda p, s, t: t, r"accepts \(prediction, state\), got a function with missing a required argument: 't'"),
        (0.5, r"a score by name or a function \(prediction, state\), got float"),
        (None, "got NoneType"),
    ],
)
def test_what_cannot_be_called_with_a_prediction_and_a_state_is_no_score(score, message):
    with pytest.raises(TypeError, match=message):
        scores.resolve(score)


def test_scores_that_are_not_a_tensor_are_refused_with_their_type():
    with pytest.raises(TypeError, match="expected a tensor of scores from the score at exit 1, got list"):
        scores.evaluate(lambda p, s: [0.0, 1.0, 2.0], GIVEN, None, 1)


def test_a_score_that_is_not_a_number_is_named_with_exit_and_position():
    with pytest.raises(ValueError, match="a number as every score at exit 2, got NaN at position 1"):
        scores.evaluate(lambda p, s: torch.tensor([0.0, torch.nan, 1.0]), GIVEN, None, 2)


def test_a_score_of_a_wrong_shape_is_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"expected scores of shape \(3,\) at exit 1, got \(3, 1\)"):
        scores.evaluate(lambda p, s: torch.zeros(3, 1), GIVEN, None, 1)


def test_infinite_scores_become_the_extreme_numbers_so_that_an_infinite_threshold_keeps_its_meaning():
    values = scores.evaluate(lambda p, s: torch.tensor([-torch.inf, 0, torch.inf]), GIVEN, None, 0)
    assert (values < torch.inf).all()
    assert (values > -torch.inf).all()
    assert values.argsort().tolist() == [0, 1, 2]


def regression(scale=1.0):
    epistemic = torch.tensor([[1.0, 2.0], [0.1, 5.0], [3.0, 0.0]], dtype=torch.float64)
    noise = torch.tensor([[1.0, 1.0], [0.4, 0.4], [2.0, 2.0]], dtype=torch.float64)
    units = torch.tensor([1.0, scale], dtype=torch.float64)
    return Regression(torch.zeros(3, 2), epistemic * units, noise * units)


def test_the_variance_orders_as_the_entropy_of_the_gaussian():
    given = regression()
    entropy = torch.distributions.Normal(given.mean.double(), given.std).entropy().sum(dim=1)
    assert scores.variance(given).argsort().tolist() == (-entropy).argsort().tolist()
    torch.testing.assert_close(scores.variance(given)[0], -torch.tensor([2.0, 3.0]).double().log().mean())


@pytest.mark.parametrize("name", ["variance", "epistemic"])
def test_scores_of_a_regression_order_alike_whatever_the_unit_of_an_output(name):
    values = [scores.evaluate(scores.resolve(name), regression(scale), None, 0) for scale in (1.0, 1e6)]
    assert values[0].argsort().tolist() == values[1].argsort().tolist()
    assert values[0].isfinite().all()


@pytest.mark.parametrize("name", ["confidence", "margin", "entropy", "aleatoric"])
def test_a_score_of_classes_is_refused_for_a_regression_with_those_that_apply(name):
    expected = rf"a score of a Regression, one of \['epistemic', 'variance'\], .* got {name!r}, .* of a Prediction"
    with pytest.raises(ValueError, match=expected):
        scores.evaluate(scores.resolve(name), regression(), None, 0)


def test_a_score_of_a_regression_is_refused_for_classes():
    with pytest.raises(ValueError, match=r"a score of a Prediction, .* got 'variance', which is of a Regression"):
        scores.evaluate(scores.variance, GIVEN, None, 0)


def test_patience_counts_the_exits_in_a_row_that_gave_the_same_label():
    calibrated = builders.untuned(builders.network(widths=(6, 5, 7, 6, 5)), builders.inputs(300))
    answers = calibrated(builders.inputs(300))
    labels = torch.stack([answer.label for answer in answers])
    for k, answer in enumerate(answers):
        for n in range(300):
            count = 1
            while count <= k and labels[k - count, n] == labels[k, n]:
                count += 1
            assert int(scores.patience(answer)[n]) == count


def test_patience_without_counted_exits_is_an_error():
    with pytest.raises(ValueError, match="agreeing exits counted"):
        scores.patience(GIVEN)


@pytest.mark.parametrize("name", sorted(set(scores.SCORES) - {"variance"}))
def test_levels_fall_from_hardly_any_example_to_all(name):
    calibrated = builders.untuned(builders.network(), builders.inputs(300))
    levels = scores.levels(name, num_classes=4, num_exits=3)
    assert (levels.diff() < 0).all()
    values = torch.cat([scores.SCORES[name](answer).double() for answer in calibrated(builders.inputs(300))[:2]])
    assert (values >= levels[-1] - 1e-6).all()
    assert (values >= levels[0]).double().mean() < 0.05


def test_positions_are_named_in_the_whole_pass_and_padding_is_not_checked():
    positions = torch.tensor([-1, 40, 7])
    first, second = torch.tensor([torch.nan, 0, 1]), torch.tensor([0, torch.nan, torch.nan])
    assert scores.evaluate(lambda p, s: first, GIVEN, None, 0, positions).shape == (3,)
    with pytest.raises(ValueError, match=r"NaN at position 7$"):
        scores.evaluate(lambda p, s: second, GIVEN, None, 0, positions)


def test_a_variance_has_no_levels_of_its_own():
    with pytest.raises(ValueError, match="levels for the score 'variance', got none; pass levels"):
        scores.levels("variance", num_classes=4, num_exits=3)


def test_a_score_costs_at_every_exit_but_the_last():
    class Priced:
        made_for, macs = "", (5, 7, 11)

        def at(self, k):
            return scores.confidence

    assert scores.priced((100, 200, 300), Priced()) == (105, 212, 312)
    assert scores.priced((100, 200, 300), "confidence") == (100, 200, 300)


def test_levels_of_patience_run_from_all_exits_to_one():
    assert scores.levels("patience", 10, 4).tolist() == [4, 3, 2, 1]


def several_labels(n, labels, spread):
    log_odds = spread * builders.inputs(n, labels).double()
    log_probs = torch.nn.functional.logsigmoid(torch.stack([-log_odds, log_odds], dim=2))
    aleatoric = torch.special.entr(log_probs.exp()).sum(dim=2)
    return Multilabel(log_probs, aleatoric)


@pytest.mark.parametrize("name", ["confidence", "margin", "entropy", "aleatoric"])
def test_levels_of_several_labels_fall_from_hardly_any_example_to_all(name):
    for labels in (1, 3, 40):
        levels = scores.levels(name, num_classes=2, num_exits=3, num_labels=labels)
        assert (levels.diff() < 0).all()
        values = scores.evaluate(scores.resolve(name), several_labels(500, labels, 1.0), None, 0)
        assert (values >= levels[-1] - 1e-6).all()
        assert (values >= levels[0]).double().mean() < 0.05
    undecided = several_labels(1, 40, 0.0)
    assert float(scores.evaluate(scores.resolve(name), undecided, None, 0)) == pytest.approx(float(levels[-1]))


def test_a_score_of_a_regression_is_refused_for_several_labels():
    with pytest.raises(ValueError, match=r"a score of a Multilabel, .* got 'variance', which is of a Regression"):
        scores.evaluate(scores.variance, several_labels(3, 2, 1.0), None, 0)
