"""Artifacts with edited values and right digests: refused by name, or valid.

Every configuration value and every tensor is edited in every way of `edits`, one at a time, and the digests are
computed anew. Loading either raises a ValueError (a TypeError where the network seems to be missing) that names a
part of the artifact, or returns an object with finite and valid predictions.
"""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import suffice
from suffice.models import zoo
from suffice.storage import artifact
from suffice.training import Checkpointing, SGDConfig, train
from tests import builders
from tests.robustness import edits, kinds

SAMPLE = 100
"""Number of edits of each artifact in the fast tests."""

TENSORS = 40
"""Largest number of tensors that are edited in an artifact; the weights of a network are alike."""

FEW = [
    ("calibrated", "classification-kronecker-sampled"),
    ("calibrated", "classification-lowrank-sampled"),
    ("calibrated", "binary-full-probit"),
    ("calibrated", "multilabel-blocks-sampled"),
    ("calibrated", "regression-kronecker-meanfield"),
    ("calibrated", "heteroscedastic-diagonal-sampled"),
    ("calibrated", "product"),
    ("density", "plain"),
    ("policy", "mixed"),
    ("policy", "promise"),
    ("policy", "milliseconds"),
    ("policy", "learned score"),
    ("policy", "randomized sets"),
    ("policy", "intervals"),
    ("variation-estimator", "auto"),
    ("variation-estimator", "delta rule"),
    ("variation-estimator", "margins"),
    ("buckets", "values"),
]


@pytest.fixture(autouse=True)
def undurable(monkeypatch):
    """Skip syncs: thousands of files are written, and none has to survive a power loss."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def parts_of(folder: Path):
    """Return the configuration and the tensors of an artifact."""
    return json.loads((folder / "manifest.json").read_text())["configuration"], load_file(
        folder / "tensors.safetensors"
    )


def edited(folder: Path, what: str, count: int | None):
    """Write `count` random edits of an artifact, or all, one after another, and yield their names."""
    configuration, tensors = parts_of(folder)
    some = random.Random(0).sample(sorted(tensors), min(len(tensors), TENSORS))
    text, every = json.dumps(configuration), list(edits.every(configuration, {name: tensors[name] for name in some}))
    chosen = every if count is None else random.Random(0).sample(every, min(count, len(every)))
    for name, edit in chosen:
        changed, others = json.loads(text), dict(tensors)
        edit(changed, others)
        artifact.write(folder, what, changed, others)
        yield name
    artifact.write(folder, what, configuration, tensors)


def assert_refused(error: Exception, name: str, configuration: object, tensors: dict) -> None:
    """Check that an error names the edited part, or one that no longer agrees with it."""
    assert type(error) in (ValueError, TypeError), (name, error)
    parts = set(_keys(configuration)) | set(tensors) | {"hash", "nn.Linear", "modules", "unknown"}
    assert str(error).startswith("expected"), (name, error)
    assert any(part in str(error) for part in parts), (name, error)


def _keys(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*(value if isinstance(value, dict) else ()), *(key for part in inner for key in _keys(part))]


def assert_valid(answer: dict[str, torch.Tensor], name: str) -> None:
    for key, values in answer.items():
        assert bool(values.isfinite().all()), (name, key)
        if "log_probs" in key:
            # Each of C probabilities is rounded in its logarithm, of a size up to 104 in float32, and in itself.
            sums = values.double().exp().sum(dim=-1)
            assert float((sums - 1).abs().max()) <= 105 * values.shape[-1] * torch.finfo(values.dtype).eps, name
        if key == "probs":
            assert bool(((values >= 0) & (values <= 1)).all()), name
        if "variance" in key or key == "variation":
            assert bool((values >= 0).all()), name


def check(kind: str, variant: str, folder: Path, count: int | None) -> int:
    """Check `count` edits of an artifact, or all, and return their number."""
    case = kinds.case(kind, variant)
    suffice.save(case.made, folder)
    written = parts_of(folder)
    edits_made = 0
    for name in edited(folder, kind, count):
        edits_made += 1
        try:
            loaded = suffice.load(folder, network=case.network)
        except Exception as error:  # its type is tested
            assert_refused(error, name, *written)
            continue
        try:
            answer = case.answer(loaded)
        except ValueError as error:  # only a forward pass detects some edits, such as of the width of a layer
            answer, refused = {}, str(error)
            assert refused.startswith("expected"), (name, refused)
        assert_valid(answer, name)
    return edits_made


@pytest.mark.filterwarnings("ignore:.* inputs are outside")
@pytest.mark.parametrize(("kind", "variant"), FEW)
def test_a_sample_of_edits_is_refused_by_name_or_valid(kind, variant, tmp_path, tried):
    tried("artifacts edited", check(kind, variant, tmp_path / "a", SAMPLE))


def marked(kind: str, variant: str):
    """Mark the variants that only `make hardening` edits: those left keep every pair of their three choices."""
    exhaustive = kind == "calibrated" and variant.count("-") == 2 and not kinds.is_covering(variant)
    return pytest.param(kind, variant, marks=pytest.mark.exhaustive if exhaustive else ())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* inputs are outside")
@pytest.mark.parametrize(("kind", "variant"), [marked(*pair) for pair in kinds.EVERY])
def test_every_edit_is_refused_by_name_or_valid(kind, variant, tmp_path, tried):
    tried("artifacts edited", check(kind, variant, tmp_path / "a", None))


class KilledError(Exception):
    pass


def interrupted(folder: Path):
    """Write a checkpoint in the middle of an epoch, and return a function that resumes from it."""
    x = kinds.X
    loader = builders.batched(x, builders.sampled_labels(builders.network()(x)[-1]), 16)

    def kill(progress):
        if progress.epoch == 2 and progress.step == 3:
            raise KilledError

    def resume(network, every=60.0, **options):
        with torch.random.fork_rng():
            checkpoint = Checkpointing(folder, every, torch.Generator().manual_seed(0))
            return train(network, loader, epochs=2, optimizer=SGDConfig(0.01), checkpoint=checkpoint, **options)

    with pytest.raises(KilledError):
        resume(builders.network(), every=0.0, on_step=kill)
    return resume


def check_checkpoint(folder: Path, count: int | None) -> None:
    resume = interrupted(folder)
    written = parts_of(folder)
    for name in edited(folder, "training", count):
        network = builders.network(seed=1)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        try:
            history = resume(network)
        except FloatingPointError:  # large weights are valid
            continue
        except Exception as error:  # its type is tested
            assert_refused(error, name, *written)
            assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items()), name
            continue
        assert len(history) == 2, name
        assert all(bool(value.isfinite().all()) for value in network.state_dict().values()), name


def test_a_sample_of_edited_checkpoints_is_refused_by_name_or_resumed(tmp_path):
    check_checkpoint(tmp_path / "run", 2 * SAMPLE)


@pytest.mark.slow
def test_every_edited_checkpoint_is_refused_by_name_or_resumed(tmp_path):
    check_checkpoint(tmp_path / "run", None)


@pytest.mark.filterwarnings("ignore::UserWarning")  # 24 images of noise are little to tune on
def test_a_sample_of_edited_shipped_networks_is_refused_by_name(tmp_path):
    zoo.ship(tmp_path / "net", kinds.shipped(), "cifar-small")
    written = parts_of(tmp_path / "net" / "network")
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in edited(tmp_path / "net" / "network", "pretrained", SAMPLE // 4):
        try:
            loaded = zoo.load(tmp_path / "net")
        except Exception as error:  # its type is tested
            assert_refused(error, name, *written)
            continue
        answer = suffice.run(loaded.calibrated, loaded.policy, x)
        assert_valid({"log_probs": answer.prediction.log_probs}, name)
