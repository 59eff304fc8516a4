"""`Runner.run` on an exported bundle gives the answers of `suffice.run`."""

import numpy as np
import pytest
import torch
from torch import nn

import suffice
from suffice.budget.sets import SetRule
from suffice.network import Exit, ExitNetwork
from suffice_runtime import Runner
from tests import builders

CLOSE = 1e-5
"""Difference of probabilities that the runtime states."""


class Words(nn.Module):
    """Embedding of a text, in which only the tokens that count are not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)

    def forward(self, x):
        return {"h": self.table(x["input_ids"]), "mask": x["attention_mask"].float()}


class Attention(nn.Module):
    """Attention without heads, from the tokens that count, so that its cost is quadratic in their number."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(6, 6)

    def forward(self, state):
        h, mask = state["h"], state["mask"]
        scores = self.query(h) @ h.transpose(1, 2) - 1e4 * (1 - mask)[:, None]
        return {"h": torch.tanh(h + scores.softmax(dim=-1) @ h), "mask": mask}


class MeanOfTokens(nn.Module):
    """Mean over the tokens that count."""

    def forward(self, state):
        mask = state["mask"][..., None]
        return (state["h"] * mask).sum(dim=1) / mask.sum(dim=1)


def texts(count, tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(20, (count, tokens), generator=generator)
    lengths = torch.randint(1, tokens + 1, (count, 1), generator=generator)
    return {"input_ids": ids, "attention_mask": (torch.arange(tokens) < lengths).long()}


def text_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exits = [Exit(MeanOfTokens(), nn.Linear(6, 3)) for _ in range(3)]
        for exit_ in exits:
            nn.init.normal_(exit_.classifier.weight, std=2.0)
        return ExitNetwork([Words(), Attention(), Attention()], exits).eval()


def vectors(count, _, seed=0):
    return builders.inputs(count, seed=seed)


RULE = SetRule(torch.tensor([0.6, 0.7, 0.8], dtype=torch.float64), "aps", 0.9, True, (9, 9, 9), randomized=True)


class Case:
    """Calibrated network, its policy, and the runner of its bundle."""

    def __init__(self, network, inputs, score, folder) -> None:
        self.inputs, x = inputs, inputs(40, 8)
        self.calibrated = builders.untuned(network, x, ensemble="product", samples=4)
        thresholds = torch.tensor([1.5, 1.5], dtype=torch.float64)  # between two counts of equal labels
        if score == "confidence":
            scores = [prediction.log_odds for prediction in self.calibrated(x)]
            thresholds = torch.stack(scores[:-1]).double().quantile(0.6, dim=1)
        self.policy = suffice.Policy(
            thresholds,
            score,
            1.0,
            1.0,
            torch.full((3,), 1 / 3, dtype=torch.float64),
            self.calibrated.digest,
            alternative=torch.tensor([-torch.inf, torch.inf], dtype=torch.float64),  # by the coin some stop at exit 0
            portion=0.4,
            sets=RULE,
        )
        suffice.export(self.calibrated, folder, policy=self.policy, example=inputs(4, 8))
        self.runner = Runner(folder)

    def check(self, x) -> set[int]:
        """Compare the answers to a batch, and return the exits where they stopped."""
        arrays = x.numpy() if isinstance(x, torch.Tensor) else {name: tensor.numpy() for name, tensor in x.items()}
        expected, found = suffice.run(self.calibrated, self.policy, x), self.runner.run(arrays)
        near = np.zeros(len(found), dtype=bool)
        for thresholds in (self.policy.thresholds, self.policy.alternative):
            near |= np.nan_to_num(abs(found.scores - thresholds.numpy()) < CLOSE).any(axis=1)
        assert near.mean() < 0.1
        assert (found.exit == expected.exit.numpy())[~near].all()
        assert (found.macs == expected.macs.numpy())[~near].all()
        for name in ("probs", "aleatoric", "epistemic", "entropy"):
            ours, theirs = getattr(found, name), getattr(expected, name).numpy()
            np.testing.assert_allclose(ours[~near], theirs[~near], atol=CLOSE, rtol=CLOSE, err_msg=name)
        np.testing.assert_allclose(found.scores[~near], expected.scores.numpy()[~near], atol=1e-4, rtol=1e-4)
        members = found.set.members == expected.set.members.numpy()
        assert members[~near].mean() > 0.99  # those within rounding of their threshold may differ
        return set(found.exit.tolist())


@pytest.fixture(scope="module", params=["texts", "nested state"])
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("twins") / "bundle"
    if request.param == "texts":
        return Case(text_network(), texts, "confidence", folder)
    return Case(builders.network(nested=True), vectors, "patience", folder)


@pytest.mark.parametrize("count", [1, 5, 60])
@pytest.mark.parametrize("tokens", [8, 3, 13])
def test_answers_are_those_of_the_library(case, count, tokens):
    stopped = case.check(case.inputs(count, tokens, seed=count + tokens))
    assert len(stopped) > 1 or count < 60


def test_predictions_of_every_exit_are_those_of_the_library(case):
    x = case.inputs(30, 8, seed=3)
    arrays = x.numpy() if isinstance(x, torch.Tensor) else {name: tensor.numpy() for name, tensor in x.items()}
    for ours, theirs in zip(case.runner.predict(arrays), case.calibrated(x), strict=True):
        np.testing.assert_allclose(ours.probs, theirs.probs.numpy(), atol=CLOSE, rtol=0)
        np.testing.assert_allclose(ours.aleatoric, theirs.aleatoric.numpy(), atol=CLOSE, rtol=CLOSE)


def test_a_stream_of_different_lengths_is_that_of_the_library(case):
    batches = [case.inputs(count, tokens, seed=count) for count, tokens in ((9, 8), (4, 3), (7, 8), (1, 13))]
    arrays = [
        x.numpy() if isinstance(x, torch.Tensor) else {name: tensor.numpy() for name, tensor in x.items()}
        for x in batches
    ]
    ours = case.runner.run_stream(arrays, size=6, delay=2)
    theirs = suffice.run_stream(case.calibrated, case.policy, batches, size=6, delay=2)
    for one, other in zip(ours, theirs, strict=True):
        assert one.positions.tolist() == other.positions.tolist()
        same = one.answer.exit == other.answer.exit.numpy()
        assert same.mean() >= 0.9  # scores within rounding of their threshold may differ
        np.testing.assert_allclose(one.answer.probs[same], other.answer.probs.numpy()[same], atol=CLOSE, rtol=0)
        assert (one.answer.macs[same] == other.answer.macs.numpy()[same]).all()
