"""The optimizer of a training: given as settings, as an object or as a function, or chosen by what is trained."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import suffice
from suffice.training import AdamWConfig, Checkpointing, Execution, SGDConfig, train
from suffice.training.optimizers import FINE_TUNING, default
from tests import builders

CLASSES = 4


def labeled(count=400, seed=0):
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :CLASSES].argmax(dim=1)


def loader(size=50):
    x, y = labeled()
    return builders.batched(x, y, size)


def model(trained=True):
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    optimizer = torch.optim.AdamW(made.parameters(), 1e-2)
    for _ in range(15 if trained else 0):
        for x, y in loader():
            optimizer.zero_grad()
            cross_entropy(made(x), y).backward()
            optimizer.step()
    return made.eval()


def by_hand(trained=True):
    made = model(trained)
    early = suffice.Exit(nn.Identity(), nn.Linear(32, CLASSES))
    return suffice.ExitNetwork([made[:2], made[2:4]], [early, suffice.Exit(nn.Identity(), made[4])])


def attached(trained=True, freeze=False):
    return suffice.attach_exits(model(trained), at=["1"], example=labeled()[0][:4], freeze=freeze)


def plain(trained=True):
    return suffice.attach.plain.as_exit_network(model(trained), labeled()[0][:4])


def accuracy(network, k=-1):
    x, y = labeled(1000, seed=1)
    with torch.no_grad():
        return float((network.eval()(x)[k].argmax(dim=1) == y).double().mean())


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (attached, {}),
        (partial(attached, freeze=True), {}),
        (by_hand, {}),
        (by_hand, {"exits_only": True}),
        (plain, {}),
    ],
)
def test_the_default_trains_new_exits_and_does_not_damage_a_trained_network(network, options):
    network = network()
    before, first = accuracy(network), accuracy(network, 0)
    train(network, loader(), epochs=8, **options)
    assert accuracy(network) > before - 0.03
    assert accuracy(network, 0) > (first + 0.3 if len(network.exits) > 1 else before - 0.03)


@pytest.mark.parametrize(
    ("network", "trained", "expected"),
    [
        (attached(trained=False), False, FINE_TUNING),
        (attached(freeze=True), True, FINE_TUNING),
        (plain(trained=False), False, FINE_TUNING),
        (by_hand(), True, FINE_TUNING),
        (by_hand(trained=False), False, SGDConfig()),
        (suffice.models.convnet(CLASSES), False, SGDConfig()),
    ],
)
def test_the_default_depends_on_what_is_trained(network, trained, expected):
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert default(network, parameters, likelihood="classification", backbone_trained=trained) == expected


def test_exits_alone_get_the_default_for_a_trained_backbone():
    network = by_hand(trained=False)
    chosen = default(network, network.exits.parameters(), likelihood="binary", backbone_trained=False)
    assert chosen == FINE_TUNING


def test_numbers_from_scratch_get_adam():
    network = by_hand(trained=False)
    chosen = default(network, network.parameters(), likelihood="regression", backbone_trained=False)
    assert chosen == AdamWConfig()


def test_a_rise_of_the_backbones_own_loss_is_warned_of_with_both_losses():
    with pytest.warns(UserWarning, match=r"the last exit, rose from 0\.\d+ before the training to .* Freeze it"):
        train(by_hand(), loader(), epochs=2, optimizer=SGDConfig(3.0))


def test_a_network_from_scratch_is_not_warned_of():  # warnings are errors
    train(by_hand(trained=False), loader(), epochs=2)


def same(first, second):
    return all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_an_optimizer_is_used_as_it_is_like_in_a_loop_of_ones_own():
    network = by_hand()
    twin = copy.deepcopy(network).train()
    optimizer = torch.optim.AdamW(twin.parameters(), 1e-3)
    for _ in range(2):
        for x, y in loader():
            optimizer.zero_grad()
            sum(cross_entropy(logits, y) for logits in twin(x)).backward()
            optimizer.step()
    object_, function = copy.deepcopy(network), copy.deepcopy(network)
    train(object_, loader(), epochs=2, optimizer=torch.optim.AdamW(object_.parameters(), 1e-3))
    train(function, loader(), epochs=2, optimizer=partial(torch.optim.AdamW, lr=1e-3))
    assert same(object_, twin)
    assert same(function, twin)


def test_frozen_parameters_in_a_given_optimizer_stay_unchanged():
    network = attached(freeze=True)
    before = copy.deepcopy(network.stages.state_dict())
    train(network, loader(), epochs=2, optimizer=torch.optim.AdamW(network.parameters(), 1e-2))
    assert all(torch.equal(value, before[name]) for name, value in network.stages.state_dict().items())
    assert accuracy(network, 0) > 0.5


@pytest.mark.parametrize("optimizer", ["adam", 0.1, nn.Linear(2, 2).parameters(), lambda parameters: None, nn.Linear])
def test_another_optimizer_is_refused(optimizer):
    with pytest.raises(TypeError, match=r"optimizer|argument"):
        train(by_hand(), loader(), epochs=1, optimizer=optimizer)


def test_an_optimizer_of_another_network_is_refused():
    with pytest.raises(ValueError, match=r"the network's own parameters, got Adam with 8 others"):
        train(by_hand(), loader(), epochs=1, optimizer=torch.optim.Adam(by_hand().parameters()))


def test_an_optimizer_from_before_exits_were_attached_is_refused():
    made = model()
    optimizer = torch.optim.AdamW(made.parameters())
    network = suffice.attach_exits(made, at=["1"], example=labeled()[0][:4], freeze=False)
    with pytest.raises(ValueError, match=r"got AdamW without those of exits \[0\]"):
        train(network, loader(), epochs=1, optimizer=optimizer)


def test_an_optimizer_that_needs_a_closure_is_refused():
    network = by_hand()
    with pytest.raises(ValueError, match="without a closure, got LBFGS"):
        train(network, loader(), epochs=1, optimizer=torch.optim.LBFGS(network.parameters()))


def test_learning_rates_rise_over_the_first_steps_and_then_follow_the_schedule():
    network, rates = by_hand(trained=False), []
    x, y = labeled()

    class Recorded(AdamWConfig):
        def build(self, parameters, backbone=()):
            built = super().build(parameters, backbone)
            step = built.step
            built.step = lambda: rates.append([group["lr"] for group in built.param_groups]) or step()
            return built

    config = Recorded(0.1, warmup=4, schedule=lambda done: 1.0 if done < 0.5 else 0.5)
    train(network, builders.batched(x, y, 150), epochs=4, optimizer=config)
    assert [rate for (rate,) in rates] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1] + [0.05] * 6)


def test_the_backbone_has_a_rate_of_its_own():
    network = by_hand()
    parameters, stages = list(network.parameters()), list(network.stages.parameters())
    built = AdamWConfig(0.1, backbone_rate=0.01).build(parameters, stages)
    rates = {p: group["lr"] for group in built.param_groups for p in group["params"]}
    assert [rates[p] for p in parameters] == [0.01 if any(p is s for s in stages) else 0.1 for p in parameters]


class KilledError(Exception):
    pass


OWN = {
    "default": lambda network: None,
    "AdamWConfig": lambda network: AdamWConfig(1e-2, warmup=10),
    "warm SGDConfig": lambda network: SGDConfig(1e-2, warmup=10),
    "an object": lambda network: torch.optim.AdamW(network.parameters(), 1e-3, amsgrad=True),
    "a function": lambda network: torch.optim.RMSprop,
}


@pytest.mark.parametrize("when", [1, 5, 8, 11])
@pytest.mark.parametrize("make", list(OWN.values()), ids=list(OWN))
def test_an_interrupted_training_ends_with_the_same_bytes_with_any_optimizer(make, when, tmp_path):
    """The training has eight steps an epoch, is killed after a step, and resumes with new objects."""
    whole, killed, resumed, finished = (by_hand() for _ in range(4))
    history = train(whole, loader(), epochs=2, optimizer=make(whole))
    checkpoint, seen = Checkpointing(tmp_path / "run", every=0.0), []

    def kill(progress):
        seen.append(progress)
        if len(seen) == when:
            raise KilledError

    with pytest.raises(KilledError):
        train(killed, loader(), epochs=2, optimizer=make(killed), checkpoint=checkpoint, on_step=kill)
    assert train(resumed, loader(), epochs=2, optimizer=make(resumed), checkpoint=checkpoint) == history
    assert same(resumed, whole)
    assert train(finished, [], epochs=2, optimizer=make(finished), checkpoint=checkpoint) == history
    assert same(finished, whole)


def test_a_rate_that_a_scheduler_has_lowered_is_restored(tmp_path):
    def run(network, folder, decays, most=100):
        optimizer = torch.optim.SGD(network.parameters(), 1e-2)
        steps = iter(range(most))

        def decay(epoch, _):
            optimizer.param_groups[0]["lr"] /= 10 if epoch == decays else 1

        def kill(_):
            if next(steps, None) is None:
                raise KilledError

        checkpoint = Checkpointing(tmp_path / folder, every=0.0)
        train(network, loader(), epochs=2, optimizer=optimizer, checkpoint=checkpoint, on_epoch=decay, on_step=kill)

    whole, killed, resumed = by_hand(), by_hand(), by_hand()
    run(whole, "whole", decays=1)
    with pytest.raises(KilledError):
        run(killed, "killed", decays=1, most=10)
    run(resumed, "killed", decays=None)
    assert same(resumed, whole)


@pytest.mark.parametrize(
    "other",
    [
        None,
        AdamWConfig(1e-2),
        AdamWConfig(1e-3, warmup=3),
        AdamWConfig(1e-3, backbone_rate=1e-4),
        SGDConfig(1e-3),
        partial(torch.optim.AdamW, lr=1e-3),
    ],
)
def test_a_checkpoint_with_another_optimizer_is_refused(other, tmp_path):
    checkpoint = Checkpointing(tmp_path / "run")
    train(by_hand(), loader(), epochs=1, optimizer=AdamWConfig(1e-3), checkpoint=checkpoint)
    with pytest.raises(ValueError, match="resume with the same settings"):
        train(by_hand(), [], epochs=1, optimizer=other, checkpoint=checkpoint)


def test_settings_of_plain_gradient_descent_are_those_of_earlier_checkpoints():
    assert SGDConfig(0.1).settings().keys() == {"learning_rate", "momentum", "weight_decay", "nesterov", "schedule"}


@pytest.mark.parametrize("config", [SGDConfig, AdamWConfig])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": -0.1}, "expected a learning rate of at least 0, got -0.1"),
        ({"learning_rate": float("nan")}, "expected a learning rate of at least 0, got nan"),
        ({"learning_rate": "0.1"}, "expected a learning rate of at least 0, got '0.1'"),
        ({"weight_decay": -1.0}, "expected a weight_decay of at least 0"),
        ({"warmup": 1.5}, "expected a whole number of warmup steps"),
    ],
)
def test_values_of_a_configuration_out_of_range_are_refused(config, values, message):
    with pytest.raises(ValueError, match=message):
        config(**values)
    with pytest.raises(TypeError, match=r"expected a schedule as a function .* got 'cosine'"):
        config(schedule="cosine")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": SGDConfig}, r"expected as optimizer SGDConfig\(…\), got the class itself"),
        ({"optimizer": 0.1}, r"expected as optimizer SGDConfig\(…\) or AdamWConfig\(…\), .* got 0.1"),
        ({"execution": {}}, r"expected execution=Execution\(compiled=True\) of suffice.training, or None, got {}"),
        ({"execution": Execution}, "expected execution=Execution"),
        ({"checkpoint": "folder"}, r"expected checkpoint=Checkpointing\(.*, got 'folder'"),
        ({"epochs": 1.5}, "expected epochs as a whole number, got 1.5"),
    ],
)
def test_settings_of_another_kind_are_refused_by_name(settings, message):
    network = suffice.models.tower([10, 10], num_classes=2, hidden=(8, 8), exits_after=(1,))
    ids = torch.arange(100).reshape(50, 2) % 10
    with pytest.raises(TypeError, match=message):
        train(network, [(ids, ids[:, 0] % 2)], **{"epochs": 1, **settings})


def test_epochs_below_zero_and_bad_folders_are_refused():
    network = suffice.models.tower([10, 10], num_classes=2, hidden=(8, 8), exits_after=(1,))
    with pytest.raises(ValueError, match="expected epochs of at least 0, got -1"):
        train(network, [torch.zeros(1)], epochs=-1)
    with pytest.raises(ValueError, match="expected a path as the folder of the checkpoint, got ''"):
        Checkpointing("")
    with pytest.raises(ValueError, match="expected a number of seconds between checkpoints, got nan"):
        Checkpointing("x", every=float("nan"))
    with pytest.raises(TypeError, match="expected a lightning_fabric"):
        Execution(fabric="cuda")
