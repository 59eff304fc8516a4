"""Compilation, memory formats, precision and processes of a training step."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import suffice
from suffice.data.sources import digits
from suffice.training import Execution, SGDConfig, train


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
