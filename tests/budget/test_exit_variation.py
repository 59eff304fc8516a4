import pytest
import torch

import suffice
from suffice.budget import scores
from suffice.budget.exit_variation import fit_exit_variation
from suffice.data.sources import digits
from suffice.network import ExitNetwork
from suffice.training.loop import train
from tests import builders
from tests.robustness.surroundings import anywhere

TEACHER = suffice.MCDropout(passes=8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data():
    return digits.load(0)


@pytest.fixture(scope="module")
def calibrated(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = suffice.models.convnet(num_classes=10, widths=(2, 4, 8), dropout=0.2)
        train(network, data.train.shuffled(64, generator=seeded()), epochs=6)
    return builders.untuned(network.eval(), data.train.images)


@pytest.fixture(scope="module")
def score(calibrated, data):
    images = digits.perturb(data.train.images.repeat(2, 1, 1, 1), 1 / 3, generator=seeded(1)).split(256)
    return fit_exit_variation(
        calibrated, images, data.validation.batches(), teacher=TEACHER, epochs=15, generator=seeded(2)
    )


@pytest.fixture(scope="module")
def policy(calibrated, score, data):
    return suffice.allocate(calibrated, data.validation.batches(), 0.5, score=score)


def by_exit(calibrated, score, x):
    """Return the predictions of every exit and the scores there, by computing all of them."""
    pairs, state = [], x
    for k, prediction in enumerate(calibrated(x)):
        state = calibrated.network.stages[k](state)
        pairs.append((prediction, scores.evaluate(score, prediction, state, k)))
    return pairs


def test_the_score_of_every_exit_estimates_dropout_up_to_it(calibrated, score, data):
    network, images = calibrated.network, data.test.images[:200]
    for k, (_, values) in enumerate(by_exit(calibrated, score, images)):
        cut = ExitNetwork(list(network.stages[: k + 1]), [network.exit(i) for i in range(k + 1)])
        truth = suffice.MCDropout(passes=150)(cut, images, generator=seeded(3))["std"]
        assert float(1 - (truth + values).square().mean() / truth.var()) > 0.55
        assert score.r_squared[k] > 0.55


def test_a_policy_that_stops_on_variation_meets_its_budget(calibrated, policy, data):
    assert policy.expected == pytest.approx(policy.budget, rel=0.01)
    answers = [suffice.run(calibrated, policy, images) for images, _ in data.validation.batches()]
    spent = torch.cat([answer.macs for answer in answers]).double().mean()
    assert float(spent) == pytest.approx(policy.expected)


def test_running_gives_what_computing_every_exit_gives(calibrated, policy, score, data):
    images = data.test.images
    answer, every = suffice.run(calibrated, policy, images), by_exit(calibrated, score, images)
    taken, near = torch.full((len(images),), 2), torch.zeros(len(images), dtype=torch.bool)
    for k in (1, 0):
        values, threshold = every[k][1], policy.thresholds[k]
        taken = torch.where(values >= threshold, k, taken)
        near |= (values - threshold).abs() <= 1e-5
    assert torch.equal(answer.exit[~near], taken[~near])
    assert len(answer.exit.unique()) == 3
    for k, (prediction, _) in enumerate(every):
        torch.testing.assert_close(
            answer.probs[answer.exit == k], prediction.probs[answer.exit == k], atol=1e-5, rtol=0
        )


def test_the_cost_of_the_score_counts_at_every_exit_but_the_last(calibrated, policy, score, data):
    answer = suffice.run(calibrated, policy, data.test.images)
    macs, base = score.macs, torch.tensor(calibrated.costs.cumulative)
    extra = torch.tensor([macs[0], macs[0] + macs[1], macs[0] + macs[1]])
    assert min(macs) > 64 * 64
    assert torch.equal(answer.macs, (base + extra)[answer.exit])


def test_the_score_travels_with_its_policy(calibrated, policy, data, tmp_path):
    suffice.save(policy, tmp_path / "policy")
    again = suffice.load(tmp_path / "policy")
    before, after = (suffice.run(calibrated, each, data.test.images) for each in (policy, again))
    assert torch.equal(before.exit, after.exit)
    assert torch.equal(before.macs, after.macs)
    torch.testing.assert_close(before.scores, after.scores, rtol=0, atol=0, equal_nan=True)
    assert again.score.r_squared == policy.score.r_squared


def test_another_calibration_is_refused(calibrated, score, data):
    other = calibrated.with_temperature(2.0)
    with pytest.raises(ValueError, match=r"expected a score of this calibrated network .* got one of another"):
        suffice.allocate(other, data.validation.batches(), 0.5, score=score)
    with pytest.raises(ValueError, match=r"expected a score of this calibrated network .* got one of another"):
        suffice.control_risk(other, data.validation.batches(), 0.1, score=score, levels=[-0.1, -0.2])


def test_the_same_generator_gives_the_same_bytes_and_nested_states_are_read():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = builders.network(nested=True)
        for stage in network.stages:
            stage.linear = torch.nn.Sequential(stage.linear, torch.nn.Dropout(0.3))
    x, unseen = builders.inputs(80), builders.inputs(40, seed=1)
    calibrated = builders.untuned(network.eval(), x)
    fits = [
        fit_exit_variation(calibrated, [x], [unseen], teacher=TEACHER, epochs=2, generator=seeded()).fits
        for _ in range(2)
    ]
    for a, b in zip(*fits, strict=True):
        assert all(torch.equal(own, other) for own, other in zip(a.weights, b.weights, strict=True))
    assert fits[0][2].scaling.columns.max() >= 4 + 4 + 3 + 7


def test_an_exit_behind_no_dropout_is_refused_and_named():
    network = builders.network()
    network.stages[1].append(torch.nn.Dropout(0.3))
    calibrated = builders.untuned(network.eval(), builders.inputs(20))
    with pytest.raises(ValueError, match=r"before exit 0: expected a model that drops units .* found nothing"):
        fit_exit_variation(calibrated, [builders.inputs(20)], [builders.inputs(20)], teacher=TEACHER)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"calibrated": builders.network()}, "expected a calibrated network, got ExitNetwork"),
        ({"teacher": suffice.MCDropout}, "got the class MCDropout; make one"),
        ({"val_loader": None}, "got NoneType; pass a DataLoader"),
    ],
)
def test_arguments_of_another_type_are_refused_before_anything_is_computed(wrong, message):
    x = builders.inputs(20)
    given = {"calibrated": builders.untuned(builders.network(), x), "train_loader": [x], "val_loader": [x]}
    with pytest.raises(TypeError, match=message):
        fit_exit_variation(**{**given, "teacher": TEACHER, **wrong})


@anywhere
def test_the_ambient_modes_change_nothing(calibrated, data, surrounding):
    loaders = [data.train.images[:60]], [data.validation.images[:40]]
    choices = {"teacher": TEACHER, "epochs": 1, "hidden": (4,)}
    expected = fit_exit_variation(calibrated, *loaders, generator=seeded(), **choices)
    with surrounding():
        score = fit_exit_variation(calibrated, *loaders, generator=seeded(), **choices)
    for fit, expected_fit in zip(score.fits, expected.fits, strict=True):
        assert all(map(torch.equal, fit.weights, expected_fit.weights))
    assert score.r_squared == expected.r_squared


def test_the_variation_of_several_labels_is_a_score(tmp_path):
    x = torch.rand(300, 1, 8, 8, generator=seeded())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = suffice.models.convnet(num_classes=3, widths=(4, 8), dropout=0.2)
    y = x.mean(dim=(1, 2, 3))[:, None] > torch.tensor([0.48, 0.5, 0.52])
    calibrated = suffice.calibrate(network, None, [(x, y)], likelihood="multilabel", structure=None)
    teacher = suffice.MCDropout(passes=4, likelihood="multilabel")
    score = fit_exit_variation(calibrated, [x[:200]], [x[200:]], teacher=teacher, epochs=2, generator=seeded())
    policy = suffice.allocate(calibrated, [x], 0.9, score=score)
    suffice.save(policy, tmp_path / "policy")
    answers = [suffice.run(calibrated, each, x) for each in (policy, suffice.load(tmp_path / "policy"))]
    assert torch.equal(answers[0].exit, answers[1].exit)
    assert len(answers[0].exit.unique()) == 2


def test_training_rows_for_validation_are_warned_of(calibrated):
    x = torch.rand(60, 1, 8, 8, generator=seeded())
    with pytest.warns(UserWarning, match="no training rows, got 60 of 60 that are") as caught:
        fit_exit_variation(calibrated, [x], [x], teacher=TEACHER, epochs=1, generator=seeded())
    assert [warning.filename for warning in caught if "no training rows" in str(warning.message)] == [__file__]
