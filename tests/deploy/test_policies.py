"""A bundle holds the policies that a service may use in place of its first one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import suffice
from tests import builders
from tests.deploy.bundles import FEW

SETTING = next(iter(FEW))
X = builders.inputs(300)


def export(exported, folder, policies):
    suffice.export(exported.calibrated, folder, policy=exported.policy, policies=policies, example=X[:2])


def test_every_policy_runs_as_in_the_library(bundle, tmp_path):
    runtime = pytest.importorskip("suffice_runtime")
    exported = bundle(SETTING)
    others = suffice.certified_policies(
        exported.calibrated, [X], 0.2, loss="agreement", score=exported.policy.score, count=3
    )
    export(exported, tmp_path / "bundle", [exported.policy, *others])
    runner = runtime.Runner(tmp_path / "bundle")
    found = runner.manifest.policies
    assert len(found) == 1 + len(others)  # the policy itself is there once
    macs = np.array(runner.manifest.costs.macs, dtype=np.float64)
    wanted = sorted((exported.policy, *others), key=lambda policy: policy.shares.double().numpy() @ macs)
    for ours, theirs in zip(wanted, found, strict=True):
        answer, got = suffice.run(exported.calibrated, ours, X), runner.run(X.numpy(), theirs)
        near = (answer.scores[:, 0] - ours.thresholds[0]).abs() < 1e-4
        assert torch.equal(torch.from_numpy(got.exit)[~near], answer.exit[~near])
        assert theirs.promise is None or theirs.promise.loss == "agreement"


@pytest.mark.parametrize(("change", "message"), [
    ({"score": "entropy"}, "policies of one score, .*, which the graphs compute, got one of 'entropy'"),
    ({"made_for": "0" * 64}, "a policy for this calibrated network"),
])  # fmt: skip
def test_a_policy_that_the_graphs_cannot_run_is_refused_before_anything_is_written(change, message, bundle, tmp_path):
    exported = bundle(SETTING)
    with pytest.raises(ValueError, match=message):
        export(exported, tmp_path / "bundle", [replace(exported.policy, **change)])
    assert not (tmp_path / "bundle").exists()
