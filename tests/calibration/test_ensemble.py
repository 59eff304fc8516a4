import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice.calibration import ensemble
from suffice.calibration.ensemble import shares_of_cost
from suffice.cost import Costs
from suffice.prediction import Multilabel, Prediction, Regression, entropy


def member(seed, n=6, classes=4, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64) * scale
    log_probs = logits.log_softmax(dim=1)
    return Prediction(log_probs, entropy(log_probs) * 0.9)


@settings(deadline=None, max_examples=40)
@given(weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5), scale=st.floats(0.1, 300))
def test_running_sums_equal_the_direct_formula(weights, scale):
    members = [member(seed, scale=scale) for seed in range(len(weights))]
    running = None
    for k, weight in enumerate(weights):
        running = ensemble.extend(running, members[k], weight)
        share = torch.tensor(weights[: k + 1], dtype=torch.float64)
        share = share / share.sum()
        probs = sum(w * m.probs for w, m in zip(share, members, strict=False))
        aleatoric = sum(w * m.aleatoric for w, m in zip(share, members, strict=False))
        answer = running.prediction(tuple(members[: k + 1]))
        torch.testing.assert_close(answer.probs, probs)
        torch.testing.assert_close(answer.aleatoric, aleatoric)
        assert answer.members == tuple(members[: k + 1])


def test_taking_examples_and_extending_commute():
    index = torch.tensor([4, 0, 5])
    running = ensemble.extend(None, member(0), 1.0)
    first = ensemble.extend(running.take(index), member(1).take(index), 3.0).prediction()
    last = ensemble.extend(running, member(1), 3.0).prediction().take(index)
    torch.testing.assert_close(first.log_probs, last.log_probs)
    torch.testing.assert_close(first.aleatoric, last.aleatoric)


def test_probabilities_below_the_smallest_number_survive_the_average():
    sure = Prediction(torch.tensor([[0.0, -400.0]]), torch.zeros(1))
    answer = ensemble.extend(ensemble.extend(None, sure, 1.0), sure, 2.0).prediction()
    torch.testing.assert_close(answer.log_probs, sure.log_probs)


def test_weights_are_cumulative_multiply_adds_of_the_network_alone():
    costs = Costs(stages=(10, 20), exits=(2, 8), uncertainty=(1000, 1))
    assert shares_of_cost(costs) == [12 / 40, 1.0]


def gaussian(seed, n=6, outputs=2, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    mean, epistemic, noise = torch.randn(3, n, outputs, generator=generator, dtype=torch.float64)
    return Regression(mean + offset, epistemic.exp(), noise.exp())


@settings(deadline=None, max_examples=40)
@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5))
def test_an_ensemble_of_gaussians_has_the_moments_of_their_mixture(weights):
    members = [gaussian(seed) for seed in range(len(weights))]
    running = None
    for k, weight in enumerate(weights):
        running = ensemble.extend(running, members[k], weight)
        share = torch.tensor(weights[: k + 1], dtype=torch.float64)
        pairs = list(zip(share / share.sum(), members, strict=False))
        mean = sum(w * m.mean for w, m in pairs)
        epistemic = sum(w * (m.epistemic_variance + m.mean.square()) for w, m in pairs) - mean.square()
        answer = running.prediction(tuple(members[: k + 1]))
        torch.testing.assert_close(answer.mean, mean)
        torch.testing.assert_close(answer.epistemic_variance, epistemic)
        torch.testing.assert_close(answer.noise_variance, sum(w * m.noise_variance for w, m in pairs))
        assert answer.members == tuple(members[: k + 1])


def test_the_spread_of_large_means_does_not_cancel():
    far = [gaussian(seed, offset=1e7) for seed in range(3)]
    near = [gaussian(seed) for seed in range(3)]
    spreads = []
    for members, dtype in [(far, torch.float32), (near, torch.float64)]:
        running = None
        for k, member in enumerate(members):
            point = Regression(member.mean.to(dtype), 0 * member.mean.to(dtype), 0 * member.mean.to(dtype))
            running = ensemble.extend(running, point, k + 1.0)
        spreads.append(running.prediction().epistemic_variance.double())
    assert (spreads[0] - spreads[1]).abs().max() < 2.0  # rounding of the means themselves; squares would lose 1e7
    assert (spreads[0] >= 0).all()


def test_taking_examples_of_gaussians_and_extending_commute():
    index = torch.tensor([4, 0, 5])
    running = ensemble.extend(None, gaussian(0), 1.0)
    first = ensemble.extend(running.take(index), gaussian(1).take(index), 3.0).prediction()
    last = ensemble.extend(running, gaussian(1), 3.0).prediction().take(index)
    for field in ("mean", "epistemic_variance", "noise_variance"):
        torch.testing.assert_close(getattr(first, field), getattr(last, field))


@settings(deadline=None, max_examples=40)
@given(weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5), scale=st.floats(0.1, 300))
def test_running_sums_of_a_product_equal_the_normalised_geometric_mean(weights, scale):
    members = [member(seed, scale=scale) for seed in range(len(weights))]
    running = None
    for k, weight in enumerate(weights):
        running = ensemble.extend(running, members[k], weight, product=True)
        share = torch.tensor(weights[: k + 1], dtype=torch.float64)
        share = share / share.sum()
        powers = torch.stack([w * m.log_probs for w, m in zip(share, members, strict=False)]).sum(dim=0)
        powers = (powers - powers.amax(dim=1, keepdim=True)).exp()
        aleatoric = sum(w * m.aleatoric for w, m in zip(share, members, strict=False))
        answer = running.prediction(tuple(members[: k + 1]))
        torch.testing.assert_close(answer.probs, powers / powers.sum(dim=1, keepdim=True))
        torch.testing.assert_close(answer.aleatoric, torch.minimum(aleatoric, answer.entropy))
        assert answer.members == tuple(members[: k + 1])


def test_a_product_of_equals_is_each_of_them_and_it_forgets_nothing_when_examples_leave():
    one, index = member(0), torch.tensor([4, 0])
    running = ensemble.extend(None, one, 1.0, product=True)
    both = ensemble.extend(running, one, 3.0, product=True).prediction()
    torch.testing.assert_close(both.log_probs, one.log_probs)
    other = member(1)
    whole = ensemble.extend(running, other, 3.0, product=True).prediction().take(index)
    part = ensemble.extend(running.take(index), other.take(index), 3.0, product=True).prediction()
    torch.testing.assert_close(part.log_probs, whole.log_probs)


def test_joining_is_the_reverse_of_taking():
    for product in (False, True):
        running = ensemble.extend(ensemble.extend(None, member(0), 1.0, product), member(1), 2.0, product)
        first, rest = torch.tensor([0, 1]), torch.tensor([2, 3, 4, 5])
        again = ensemble.join([running.take(first), running.take(rest)])
        assert type(again) is type(running)
        for name, value in vars(running).items():
            assert torch.equal(torch.as_tensor(getattr(again, name)), torch.as_tensor(value))


@settings(deadline=None, max_examples=30)
@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4), product=st.booleans(), scale=st.floats(0.1, 100))
def test_several_labels_are_combined_each_by_itself(weights, product, scale):
    pairs = [[member(7 * seed + c, classes=2, scale=scale) for c in range(3)] for seed in range(len(weights))]
    running, alone = None, [None] * 3
    for labels, weight in zip(pairs, weights, strict=True):
        log_probs = torch.stack([each.log_probs for each in labels], dim=1)
        joint = Multilabel(log_probs, torch.stack([each.aleatoric for each in labels], dim=1))
        running = ensemble.extend(running, joint, weight, product)
        alone = [ensemble.extend(*pair, weight, product) for pair in zip(alone, labels, strict=True)]
    answer = running.prediction()
    assert isinstance(answer, Multilabel)
    for c, one in enumerate(alone):
        torch.testing.assert_close(answer.log_probs[:, c], one.prediction().log_probs)
        torch.testing.assert_close(answer.label_aleatoric[:, c], one.prediction().aleatoric)
