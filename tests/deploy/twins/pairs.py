"""The same policy, prediction and rule in the library and in the runtime."""

import json

import numpy as np
import torch

import suffice
import suffice_runtime
from suffice.budget.sets import SetRule
from suffice.deploy.bundle import manifest
from suffice_runtime import policy as runtime_policy
from suffice_runtime import sets as runtime_sets
from suffice_runtime.bundle.entries import Entries


def policies(thresholds, shares, alternative=None, portion=0.0):
    """Return a policy of the library, and what the runtime reads from the manifest that describes it."""
    policy = suffice.Policy(
        torch.tensor(thresholds, dtype=torch.float64),
        "confidence",
        1.0,
        1.0,
        torch.tensor(shares, dtype=torch.float64),
        "0" * 64,
        alternative=None if alternative is None else torch.tensor(alternative, dtype=torch.float64),
        portion=portion,
    )
    entries = json.loads(json.dumps(manifest.policy_entries(policy)))
    return policy, runtime_policy.Policy.from_entries(Entries(entries, "test"), len(shares))


def rules(thresholds, method, **choices):
    """Return a rule for prediction sets of the library, and the runtime's."""
    common = {"method": method, "coverage": 0.9, "by_exit": True, "counts": (9,) * len(thresholds), **choices}
    numbers = np.array(thresholds, dtype=np.float64)
    return SetRule(torch.tensor(numbers), **common), runtime_sets.SetRule(numbers, **common)


def classifications(log_probs, aleatoric):
    tensors = (torch.from_numpy(log_probs), torch.from_numpy(aleatoric))
    return suffice.Prediction(*tensors), suffice_runtime.Prediction(log_probs, aleatoric)


def log_softmax(logits):
    """Return float32 log-probabilities of logits."""
    return torch.from_numpy(logits).log_softmax(dim=-1).float().numpy()
