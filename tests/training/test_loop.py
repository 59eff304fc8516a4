import copy
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import suffice
from suffice.data.sources import digits
from suffice.training import Checkpointing, Execution, SGDConfig, cosine, losses, steps, train
from tests import builders


@pytest.fixture
def network():
    torch.manual_seed(0)
    return suffice.models.convnet(num_classes=10, widths=(4, 8))


def test_the_loss_falls_and_every_exit_learns(network):
    data = digits.load(seed=0)
    history = train(network, data.train.batches(64), epochs=8)
    assert history[-1] < history[0] / 4
    for logits in network.eval()(data.train.images):
        assert (logits.argmax(1) == data.train.labels).double().mean() > 0.8


def test_each_epoch_is_reported(network):
    reports = []
    history = train(network, digits.load(0).train.batches(), epochs=2, on_epoch=lambda *report: reports.append(report))
    assert reports == [(1, history[0]), (2, history[1])]


def test_the_first_reported_loss_is_the_sum_of_the_exits_cross_entropies(network):
    x, y = torch.rand(16, 1, 8, 8), torch.arange(16) % 10
    torch.manual_seed(1)
    with torch.no_grad():
        buffers = copy.deepcopy(network.state_dict())
        expected = sum(torch.nn.functional.cross_entropy(z, y) for z in network.train()(x))
    network.load_state_dict(buffers)
    torch.manual_seed(1)
    assert train(network, [(x, y)], epochs=1)[0] == pytest.approx(float(expected), rel=1e-6)


def test_a_diverging_loss_is_an_error_that_names_the_epoch(network):
    with pytest.raises(FloatingPointError, match="in epoch 1"):
        train(network, digits.load(0).train.batches(64), epochs=3, optimizer=SGDConfig(learning_rate=1e12))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile warns about the machine
def test_compiled_and_eager_training_give_the_same_weights():
    torch.manual_seed(0)
    network = suffice.models.convnet(num_classes=10, widths=(4, 8), dropout=0.0)
    compiled = copy.deepcopy(network)
    data = list(digits.load(0).train.batches(100))[:4]
    for trained_network, choice in ((network, False), (compiled, True)):
        execution = Execution(compiled=choice)
        train(trained_network, data, epochs=1, optimizer=SGDConfig(learning_rate=0.01), execution=execution)
    assert compiled.state_dict().keys() == network.state_dict().keys()
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], weight, rtol=1e-3, atol=1e-4)


def test_a_last_batch_of_another_size_runs_uncompiled(network, monkeypatch):
    sizes = []

    def compiled(forward):
        return lambda x: sizes.append(len(x)) or forward(x)

    monkeypatch.setattr(torch, "compile", compiled)
    x, y = digits.load(0).train.images[:100], digits.load(0).train.labels[:100]
    batches = list(zip(x.split(40), y.split(40), strict=True))
    history = train(network, batches, epochs=2, execution=Execution(compiled=True))
    assert sizes == [40, 40, 40, 40]
    assert len(history) == 2


def test_an_empty_loader_is_an_error(network):
    with pytest.raises(ValueError, match="empty loader"):
        train(network, [], epochs=1)


def test_the_rate_is_divided_by_ten_at_half_and_at_three_quarters():
    assert [steps(done) for done in (0, 0.49, 0.5, 0.74, 0.75, 0.99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_the_cosine_falls_from_one_to_zero():
    assert cosine(0) == 1
    assert cosine(0.5) == pytest.approx(0.5)
    assert cosine(1) == pytest.approx(0)


def test_exits_only_leaves_the_stages_unchanged(network):
    stages = copy.deepcopy(network.stages.state_dict())
    exits = copy.deepcopy(network.exits.state_dict())
    train(network, digits.load(0).train.batches(), epochs=1, exits_only=True)
    assert all(torch.equal(value, stages[name]) for name, value in network.stages.state_dict().items())
    assert not any(torch.equal(value, exits[name]) for name, value in network.exits.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())


def test_parameters_without_gradient_stay_unchanged(network):
    weight = network.exit(0).classifier.weight.requires_grad_(False).clone()
    train(network, digits.load(0).train.batches(), epochs=1)
    assert torch.equal(network.exit(0).classifier.weight, weight)


def seeded(network, **options):
    torch.manual_seed(1)
    return train(network, digits.load(0).train.batches(64), epochs=2, **options)


def test_channels_last_changes_the_memory_format_and_not_the_loss(network):
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # masks are drawn in memory order
    twin = copy.deepcopy(network)
    assert seeded(network, execution=Execution(channels_last=True)) == pytest.approx(seeded(twin), rel=1e-3)
    convolution = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_given_loss_is_minimized(network):
    history = train(network, digits.load(0).train.batches(64), epochs=3, loss=losses.Distilled())
    assert history[-1] < history[0]


@pytest.mark.parametrize("loss", ["ce", 0.1, losses.Distilled, nn.CrossEntropyLoss(), nn.functional.cross_entropy])
def test_a_loss_of_another_kind_is_refused(network, loss):
    with pytest.raises(
        TypeError, match=r"expected a loss of the outputs of all exits .* such as suffice.training.losses"
    ):
        train(network, [], epochs=1, loss=loss)


@pytest.mark.parametrize(
    ("loss", "likelihood"),
    [
        (losses.Smoothed(), "regression"),
        (losses.Distilled(), "regression"),
        (losses.Weighted([1.0, 1.0, 1.0]), "regression"),
        (losses.summed, "regression"),
        (losses.Weighted([1.0, 1.0, 1.0], "regression"), "classification"),
    ],
)
def test_a_loss_of_another_likelihood_is_refused(loss, likelihood):
    batch = builders.inputs(5), torch.zeros(5, 4) if likelihood == "regression" else torch.zeros(5, dtype=torch.long)
    with pytest.raises(ValueError, match=rf"expected a loss for .*, '{likelihood}', got .* for '(classif|regress)"):
        train(builders.network(), [batch], epochs=1, loss=loss, likelihood=likelihood)


def test_a_loss_without_a_likelihood_is_accepted_for_any():
    batch = builders.inputs(5), torch.zeros(5, 4)
    history = train(
        builders.network(),
        [batch],
        epochs=1,
        likelihood="regression",
        loss=lambda outputs, targets: sum(z.square().mean() for z in outputs),
    )
    assert len(history) == 1


def test_a_model_without_exits_is_refused_with_a_remedy():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(TypeError, match=r"expected a suffice.ExitNetwork, got Sequential; .*suffice.attach_exits"):
        train(model, [], epochs=1)
    network, x = suffice.attach.plain.as_exit_network(model, builders.inputs(5)), builders.inputs(64)
    history = train(network, [(x, x[:, :2].argmax(dim=1))], epochs=20)
    assert history[-1] < history[0]


def trained(outputs, labels, likelihood):
    """Train a small network on 600 inputs; return the outputs of its exits and the labels."""
    network, x = builders.network(widths=(16, 16), classes=outputs, scale=0.2), builders.inputs(600)
    train(network, builders.batched(x, labels(x), 50), epochs=60, likelihood=likelihood, optimizer=SGDConfig(0.05))
    with torch.no_grad():
        return network.eval()(x), labels(x)


@pytest.mark.parametrize("columns", [[0, 1], [0], 0])
def test_regression_is_learned_at_every_exit(columns):
    def labels(x):
        return torch.stack([x[:, 0] * x[:, 1], 2 + x[:, 2].sin()], dim=1).double()[:, columns]

    exit_outputs, targets = trained(2 if columns == [0, 1] else 1, labels, "regression")
    for outputs in exit_outputs:
        expected = targets.reshape(outputs.shape)
        assert ((outputs - expected).square().mean(dim=0) < 0.1 * expected.var(dim=0)).all()


@pytest.mark.parametrize("dtype", [torch.long, torch.float32, torch.bool])
def test_binary_classification_is_learned_at_every_exit(dtype):
    exit_logits, labels = trained(1, lambda x: (x[:, 0] * x[:, 1] > 0).to(dtype), "binary")
    for logits in exit_logits:
        assert ((logits[:, 0] > 0) == labels.bool()).double().mean() > 0.93


def test_noise_that_depends_on_the_input_is_learned_at_every_exit():
    noise = torch.randn(600, generator=torch.Generator().manual_seed(1))
    exit_outputs, _ = trained(2, lambda x: x[:, 0] + (x[:, 1] / 2).exp() * noise, "heteroscedastic")
    x = builders.inputs(600)
    for outputs in exit_outputs:
        assert torch.corrcoef(torch.stack([outputs[:, 0], x[:, 0]]))[0, 1] > 0.9
        assert torch.corrcoef(torch.stack([outputs[:, 1], x[:, 1]]))[0, 1] > 0.9


@pytest.mark.parametrize(
    ("likelihood", "outputs", "labels", "message"),
    [
        ("classification", 4, torch.full((5,), 4), r"expected labels in \[0, 4\), got 4 at position 0"),
        ("classification", 1, torch.zeros(5), "pass likelihood='binary'"),
        ("binary", 1, torch.full((5,), 2), "expected labels 0 or 1, got 2 at position 0"),
        ("binary", 4, torch.zeros(5), "pass likelihood='classification'"),
        ("regression", 4, torch.zeros(5), r"expected numbers of shape \(5, 4\) as targets, got .* \(5,\)"),
        ("regression", 1, torch.full((5,), torch.nan), "expected finite targets, .* position 0"),
        ("heteroscedastic", 3, torch.zeros(5), "expected an even number of outputs"),
        ("poisson", 1, torch.zeros(5), "expected likelihood to be one of .* got 'poisson'"),
    ],
)
def test_labels_and_outputs_that_do_not_fit_the_likelihood_are_refused(likelihood, outputs, labels, message):
    network = builders.network(classes=outputs)
    with pytest.raises(ValueError, match=message):
        train(network, [(builders.inputs(5), labels)], epochs=1, likelihood=likelihood)


def test_steps_are_reported_with_the_remaining_time(network):
    reports = []
    train(network, digits.load(0).train.batches(400), epochs=3, on_step=reports.append)
    assert [(p.epoch, p.step) for p in reports] == [(e, s) for e in (1, 2, 3) for s in (1, 2)]
    assert all(p.seconds_left is None for p in reports[:2])
    assert all(p.seconds_left > 0 for p in reports[2:])
    assert reports[-1].epochs == 3


class KilledError(Exception):
    pass


def dropping():
    """Return a network with dropout, whose training draws random numbers."""
    torch.manual_seed(0)
    stage = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5))
    exits = [suffice.Exit(nn.Identity(), nn.Linear(16, 10)), suffice.Exit(nn.Dropout(0.2), nn.Linear(16, 10))]
    return suffice.ExitNetwork([stage, nn.Linear(16, 16)], exits)


def loaders(kind):
    """Return a loader with its own generator, or one that draws from torch's, and that generator or None."""
    data = digits.load(0).train
    if kind == "own":
        generator = torch.Generator().manual_seed(3)
        return data.shuffled(200, generator=generator), generator
    torch.manual_seed(3)
    dataset = torch.utils.data.TensorDataset(data.images, data.labels)
    return torch.utils.data.DataLoader(dataset, 200, shuffle=True), None


@pytest.mark.parametrize("kind", ["own", "torch's"])
@pytest.mark.parametrize("when", [2, 3, 4, 6, 11])
def test_an_interrupted_training_ends_with_the_same_bytes(kind, when, tmp_path):
    """The training has four steps an epoch, is killed after a step, and resumes with new objects."""
    network = dropping()
    loader, _ = loaders(kind)
    uninterrupted = train(network, loader, epochs=3)

    def kill(progress, reports=[]):  # noqa: B006
        reports.append(progress)
        if len(reports) == when:
            raise KilledError

    killed = dropping()
    loader, generator = loaders(kind)
    checkpoint = Checkpointing(tmp_path / "run", every=0.0, generator=generator)
    with pytest.raises(KilledError):
        train(killed, loader, epochs=3, checkpoint=checkpoint, on_step=kill)
    resumed = dropping()
    loader, generator = loaders(kind)
    checkpoint = Checkpointing(tmp_path / "run", every=0.0, generator=generator)
    torch.manual_seed(99)
    assert train(resumed, loader, epochs=3, checkpoint=checkpoint) == uninterrupted
    for name, value in network.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_a_finished_training_is_not_repeated(tmp_path):
    network, (loader, generator) = dropping(), loaders("own")
    history = train(network, loader, epochs=2, checkpoint=Checkpointing(tmp_path / "run", generator=generator))
    again = dropping()
    assert train(again, [], epochs=2, checkpoint=Checkpointing(tmp_path / "run")) == history
    assert torch.equal(again.exit(1).classifier.weight, network.exit(1).classifier.weight)


def halving(power):
    """Return a schedule that is a new function at each call, as in another process."""

    def to_the_power(done, power):
        return 0.5 ** (power * done)

    return partial(to_the_power, power=power)


def test_a_training_resumes_with_an_equal_loss_and_schedule(tmp_path):
    (first, again), data = [halving(2.0), halving(2.0)], digits.load(0).train.batches()
    options = {"epochs": 1, "loss": losses.Distilled(), "checkpoint": Checkpointing(tmp_path / "run")}
    history = train(dropping(), data, optimizer=SGDConfig(schedule=first), **options)
    assert train(dropping(), [], optimizer=SGDConfig(schedule=again), **options) == history


@pytest.mark.parametrize(
    "other",
    [
        {"epochs": 2},
        {"exits_only": True},
        {"optimizer": SGDConfig(nesterov=True, schedule=halving(2.0))},
        {"loss": None},
        {"loss": losses.Distilled(temperature=2.0)},
        {"loss": losses.Weighted([1.0, 2.0])},
        {"optimizer": SGDConfig(schedule=cosine)},
        {"optimizer": SGDConfig(schedule=halving(1.0))},
    ],
)
def test_a_checkpoint_of_another_training_is_refused(network, tmp_path, other):
    options = {"epochs": 1, "loss": losses.Distilled(), "optimizer": SGDConfig(schedule=halving(2.0))}
    options["checkpoint"] = Checkpointing(tmp_path / "run")
    train(network, digits.load(0).train.batches(), **options)
    with pytest.raises(ValueError, match="resume with the same settings"):
        train(network, [], **{**options, **other})


def test_a_checkpoint_of_another_likelihood_is_refused(network, tmp_path):
    checkpoint = Checkpointing(tmp_path / "run")
    train(network, digits.load(0).train.batches(), epochs=1, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="resume with the same settings"):
        train(network, [], epochs=1, likelihood="regression", checkpoint=checkpoint)


PROGRAM = """
import sys, json, torch
from tests.training.test_loop import dropping, loaders
from suffice.training import Checkpointing, train
network = dropping()
loader, generator = loaders("own")
train(network, loader, epochs=int(sys.argv[2]), checkpoint=Checkpointing(sys.argv[1], 0.0, generator))
print(json.dumps([value.double().sum().item() for value in network.state_dict().values()]))
"""


@pytest.mark.slow
def test_a_training_resumes_after_its_process_is_killed(tmp_path):
    def start(folder, epochs=100):
        command = [sys.executable, "-c", PROGRAM, str(folder), str(epochs)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    expected = json.loads(start(tmp_path / "whole").communicate()[0])
    for wait in (0.0, 0.3):
        victim = start(tmp_path / "killed")
        while not (tmp_path / "killed" / "manifest.json").exists():
            assert victim.poll() is None
            time.sleep(0.01)
        time.sleep(wait)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        victim.stdout.close()
    assert json.loads(start(tmp_path / "killed").communicate()[0]) == expected


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fabric_chooses_device_and_precision(network, precision):
    fabric = pytest.importorskip("lightning_fabric").Fabric(accelerator="cpu", devices=1, precision=precision)
    twin = copy.deepcopy(network)
    history, expected = seeded(network, execution=Execution(fabric=fabric)), seeded(twin)
    assert history == pytest.approx(expected, rel=1e-6 if precision == "32-true" else 0.2)
    assert history != expected or precision == "32-true"


PROCESSES = """
import json, sys, torch
from lightning_fabric import Fabric
from suffice.data import digits
from suffice.storage import artifact
from suffice.training import Checkpointing, Execution, SGDConfig, train
from tests import builders

options = json.loads(sys.argv[1])
torch.set_num_threads(1)
fabric = Fabric(accelerator="cpu", devices=options["devices"], strategy="ddp" if options["devices"] > 1 else "auto")
fabric.launch()
network = builders.network(widths=(8, 8), inputs=64, classes=10, scale=0.2)
data = digits.load(0).train
dataset = torch.utils.data.TensorDataset(data.images.flatten(1)[:640], data.labels[:640])
loader = torch.utils.data.DataLoader(dataset, 80 // options["devices"], shuffle=options["shuffle"])
written, write = [], artifact.write
artifact.write = lambda *arguments: (written.append(arguments[0]), write(*arguments))

def stop(progress):
    if [progress.epoch, progress.step] == options["stop"]:
        sys.exit(f"stopped after {len(written)} checkpoints")

torch.manual_seed(1)
history = train(network, loader, epochs=3, execution=Execution(fabric=fabric), optimizer=SGDConfig(0.05),
                exits_only=options["exits_only"], checkpoint=Checkpointing(options["folder"], 0.0), on_step=stop)
weights = torch.cat([value.flatten() for value in network.state_dict().values()]).tolist()
with open(f"{options['folder']}.{fabric.global_rank}.json", "w") as file:
    json.dump({"weights": weights, "history": history, "written": len(written)}, file)
"""


def processes(folder, devices, stop=None, shuffle=False, exits_only=False):
    """Run a training in several processes and return the results that each of them wrote."""
    program = folder.with_suffix(".py")
    program.write_text(PROCESSES)
    options = {"folder": str(folder), "devices": devices, "stop": stop, "shuffle": shuffle, "exits_only": exits_only}
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, program, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    outputs = [folder.with_name(f"{folder.name}.{rank}.json") for rank in range(devices)]
    assert all(path.exists() for path in outputs) or stop, done.stderr
    return [json.loads(path.read_text()) for path in outputs if path.exists()]


@pytest.mark.slow
@pytest.mark.parametrize("exits_only", [False, True])
def test_two_processes_train_as_one_does_and_one_of_them_writes(tmp_path, exits_only):
    pytest.importorskip("lightning_fabric")
    (alone,) = processes(tmp_path / "alone", 1, exits_only=exits_only)
    both = processes(tmp_path / "both", 2, exits_only=exits_only)
    for process in both:
        assert process["weights"] == pytest.approx(alone["weights"], abs=1e-5)
        assert process["history"] == pytest.approx(alone["history"], rel=1e-5)
    assert [process["written"] for process in both] == [alone["written"], 0]
    assert both[0]["weights"] == both[1]["weights"]


@pytest.mark.slow
def test_two_processes_resume_where_they_were_stopped(tmp_path):
    pytest.importorskip("lightning_fabric")
    whole = processes(tmp_path / "whole", 2, shuffle=True)
    assert not processes(tmp_path / "stopped", 2, stop=[2, 4], shuffle=True)
    resumed = processes(tmp_path / "stopped", 2, shuffle=True)
    for key in ("weights", "history"):
        assert [process[key] for process in resumed] == [process[key] for process in whole]
