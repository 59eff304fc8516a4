import copy

import pytest
import torch
from torch import nn

import suffice
from suffice import calibrate
from tests import builders
from tests.robustness.surroundings import anywhere

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")

X = builders.inputs(160)
LABELS = builders.sampled_labels(builders.network()(X)[-1], 1.5)
DELTAS, TEMPERATURES = (0.3, 1.0, 20.0), (0.7, 1.0, 1.6)
STRUCTURES = ["kronecker", "full", "blocks", "diagonal", "lowrank"]


def fit(net, x=X, **options):
    """Calibrate at fixed δ and T, which affect the comparisons."""
    loader = builders.batched(x, LABELS[: len(x)])
    options = {"tuning": "evidence", "temperature": False} | options
    generator = torch.Generator().manual_seed(0)
    calibrated = calibrate(net, loader, None, samples=8, generator=generator, **options)
    return calibrated.with_prior(DELTAS[: len(calibrated.exits)]).with_temperature(
        TEMPERATURES[: len(calibrated.exits)]
    )


def assert_same_answers(a, b, x=X, tolerance=2e-5):
    for one, other in zip(a(x), b(x), strict=True):
        torch.testing.assert_close(one.probs, other.probs, atol=tolerance, rtol=0)
        torch.testing.assert_close(one.aleatoric, other.aleatoric, atol=10 * tolerance, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("link", ["sampled", "meanfield"])
def test_data_that_come_later_give_what_fitting_at_once_gives(structure, link, dtype, tolerance):
    net = builders.network().to(dtype)
    choices = {
        "structure": structure,
        "link": link,
        "bias_precision": 0.2,
        "class_precision": torch.tensor([0.5, 1, 2, 4]),
    }
    once, early = fit(net, **choices), fit(net, X[:96], **choices)
    later = early.update(builders.batched(X[96:])).to("cpu")
    assert_same_answers(later, once, X.to(dtype), tolerance)
    assert [exit_.posterior.count for exit_ in later.exits] == [160] * 3
    assert [exit_.posterior.count for exit_ in early.exits] == [96] * 3
    difference = (early(X.to(dtype))[0].probs - once(X.to(dtype))[0].probs).abs().max()
    assert difference > 100 * tolerance


def test_the_factored_prior_is_kept():
    net = builders.network()
    later = fit(net, X[:96], prior="factored").update(builders.batched(X[96:]))
    assert_same_answers(later, fit(net, prior="factored"))


def test_updating_reads_the_new_data_once_and_runs_nothing_else():
    net = builders.network()
    early = fit(net, X[:96])
    seen = builders.watch_batch_sizes(net)
    early.update(iter(builders.batched(X[96:], size=50)))
    contract = [3, 2, 1]  # checks of the contract on the first examples
    assert [size for stage, size in seen if stage == 0] == [*contract, 50, 14]


def test_an_updated_network_can_be_saved_loaded_and_updated_again(tmp_path):
    net = builders.network()
    suffice.save(fit(net, X[:64]).update(builders.batched(X[64:96])), tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=net).update(builders.batched(X[96:]))
    assert_same_answers(again, fit(net))


def test_a_plain_model_is_updated_with_batches_as_in_calibrate():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
    later = fit(model, X[:96]).update([(X[96:], LABELS[96:])])
    assert_same_answers(later, fit(model))


def test_a_bad_batch_is_named_and_leaves_everything_as_it_was():
    early = fit(builders.network(), X[:96])
    before, bad = [answer.probs for answer in early(X)], X[96:].clone()
    bad[20] = float("nan")
    with pytest.raises(ValueError, match=r"finite inputs, .* at position 20 "):
        early.update(builders.batched(bad))
    assert all(torch.equal(answer.probs, probs) for answer, probs in zip(early(X), before, strict=True))


def test_weights_that_were_trained_since_are_refused():
    net = builders.network()
    calibrated = fit(net)
    with torch.no_grad():
        net.stages[1][0].bias += 1
    with pytest.raises(ValueError, match="expected a network whose weights have the hash"):
        calibrated.update(builders.batched(X))


def test_without_a_posterior_there_is_nothing_to_update():
    calibrated = calibrate(builders.network(), builders.batched(X), None, structure=None, tuning="evidence")
    with pytest.raises(ValueError, match="expected an exit with a posterior"):
        calibrated.update(builders.batched(X))


def grown(net, classes=6):
    """The same network with additional classes, whose rows are random."""
    wide = copy.deepcopy(net)
    torch.manual_seed(1)
    for exit_ in wide.exits:
        old = exit_.classifier
        exit_.classifier = nn.Linear(old.in_features, classes, bias=old.bias is not None).to(old.weight.dtype)
        with torch.no_grad():
            exit_.classifier.weight[: old.out_features] = old.weight
            if old.bias is not None:
                exit_.classifier.bias[: old.out_features] = old.bias
    return wide


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_class_that_is_added_has_its_prior_and_the_old_ones_what_was_learned(structure, bias):
    net = builders.network(bias=bias).double()
    gamma = torch.tensor([0.5, 1, 2, 4])
    before = fit(net, structure=structure, link="probit", class_precision=gamma)
    after = before.with_classes(grown(net))
    for old, new, delta, phi in zip(
        before.moments(X.double()), after.moments(X.double()), DELTAS, features(net), strict=True
    ):
        torch.testing.assert_close(new.variance[:, :4], old.variance)
        torch.testing.assert_close(new.mean[:, :4], old.mean)
        expected = (phi.square().sum(dim=1) + bias) / delta
        torch.testing.assert_close(new.variance[:, 4:], expected[:, None].expand(-1, 2))
    assert [exit_.temperature for exit_ in after.exits] == list(TEMPERATURES)
    assert after.num_classes == 6


def features(net):
    state, phis = X.double(), []
    with torch.no_grad():
        for k in range(len(net.exits)):
            state, phi = net.advance(k, state)
            phis.append(phi)
    return phis


def test_a_wider_network_answers_costs_and_saves_like_any_other(tmp_path):
    net = builders.network()
    wide = grown(net)
    after = fit(net).with_classes(wide, generator=torch.Generator().manual_seed(0))
    again = fit(net).with_classes(wide, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a.probs, b.probs) for a, b in zip(after(X), again(X), strict=True))
    assert after.costs.network == calibrate(wide, builders.batched(X), None, tuning="evidence").costs.network
    suffice.save(after, tmp_path / "c")
    loaded = suffice.load(tmp_path / "c", network=wide)
    assert torch.equal(loaded(X)[2].probs, after(X)[2].probs)
    assert loaded.update(builders.batched(X)).exits[0].posterior.count == 320


def test_a_classifier_can_be_widened_in_place():
    net = builders.network()
    calibrated = fit(net)
    wide = grown(net)
    for exit_, wide_exit in zip(net.exits, wide.exits, strict=True):
        exit_.classifier = wide_exit.classifier
    assert calibrated.with_classes(net)(X)[0].probs.shape == (160, 6)


def test_a_plain_model_with_a_wider_classifier_is_cut_where_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
    wide = nn.Sequential(model[0], model[1], nn.Linear(6, 5))
    with torch.no_grad():
        wide[2].weight[:4], wide[2].bias[:4] = model[2].weight, model[2].bias
    assert fit(model).with_classes(wide)(X)[0].probs.shape == (160, 5)


def test_networks_without_a_posterior_can_grow():
    net = builders.network()
    bare = calibrate(net, builders.batched(X), None, structure=None, tuning="evidence")
    assert bare.with_classes(grown(net))(X)[0].probs.shape == (160, 6)


@pytest.mark.parametrize("where", ["an old row", "a bias", "a stage"])
def test_other_weights_are_refused(where):
    net = builders.network()
    wide = grown(net)
    with torch.no_grad():
        classifier = wide.exit(1).classifier
        {"an old row": classifier.weight[3], "a bias": classifier.bias[:1], "a stage": wide.stages[0][0].bias}[
            where
        ].add_(1)
    with pytest.raises(ValueError, match=r"calibrated weights except for rows from 4 on of every classifier"):
        fit(net).with_classes(wide)


@pytest.mark.parametrize("classes", [4, 3])
def test_a_network_with_no_more_classes_is_refused(classes):
    with pytest.raises(ValueError, match=f"more than 4 classes, got one for {classes}"):
        fit(builders.network()).with_classes(builders.network(classes=classes))


def test_a_wider_structure_that_does_not_fit_is_refused(monkeypatch):
    net = builders.network()
    calibrated = fit(net, structure="full")
    monkeypatch.setattr("suffice.calibration.posterior._available", lambda device: 8 * 4 * (7 * 5) ** 2)
    with pytest.raises(MemoryError, match="full posterior of 7 features and 6 classes"):
        calibrated.with_classes(grown(net))


@anywhere
def test_ambient_modes_do_not_change_an_update(surrounding):
    net, loader = builders.network(), builders.batched(X[96:])
    wide = grown(net)
    early, generator = fit(net, X[:96]), torch.Generator()
    with surrounding():
        later, wider = early.update(loader), early.with_classes(wide, generator=generator.manual_seed(0))
    assert not any(tensor.is_inference() for one in (later, wider) for tensor in one.parts()[1].values())
    assert later.digest == early.update(loader).digest
    assert wider.digest == early.with_classes(wide, generator=generator.manual_seed(0)).digest
    assert_same_answers(later.with_prior(2.0), early.update(loader).with_prior(2.0), tolerance=0)
