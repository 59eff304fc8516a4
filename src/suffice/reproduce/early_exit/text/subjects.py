"""Subjects of the measurements: the requests as tokens, and a trained network with its cached features.

Texts differ in length, so each batch has its own cost. The cost of the plain network, the model without exits, is that
of the same padded batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from suffice import cost
from suffice.calibration.calibrated import Calibrated
from suffice.data.splits.texts import TokenBatches, Tokens
from suffice.evaluation.ablation import AblationStudy
from suffice.evaluation.cached import Features
from suffice.network import ExitNetwork
from suffice.reproduce.early_exit.text.classifiers import TextClassifier
from suffice.storage.fingerprint import fingerprint

SIZE = 64
"""Batch size of forward passes without gradients."""


@dataclass(frozen=True)
class Requests:
    """Requests as tokens, each part sorted by length.

    Attributes:
        train: Training part.
        validation: Half of the validation part, for calibration and thresholds.
        held_out: The other half, for guarantees.
        test: Test part, in scope.
        out_of_scope: Test part, out of scope.
    """

    train: Tokens
    validation: Tokens
    held_out: Tokens
    test: Tokens
    out_of_scope: Tokens

    def batches(self, part: str, size: int = SIZE) -> TokenBatches:
        """Return a part in batches of similar length, without shuffling."""
        tokens: Tokens = getattr(self, part)
        return tokens.batches(size, shuffle=False)

    @property
    def num_classes(self) -> int:
        """Number of intents."""
        return int(self.train.labels.max()) + 1

    @property
    def example(self) -> dict[str, Tensor]:
        """Inputs of two test texts, the first of the median length and the other shorter."""
        return inputs(self.test.pad(torch.tensor([len(self.test) // 2, 0])))


@dataclass(frozen=True)
class TrainedClassifier:
    """Trained network with what its measurements need.

    Attributes:
        network: Trained network with exits.
        plain: Model without exits, with other weights, for its cost and its time.
        study: Study over the cached features.
        out_of_scope: Cached features of the requests out of scope.
        requests: The requests.
    """

    network: ExitNetwork
    plain: TextClassifier
    study: AblationStudy
    out_of_scope: Features
    requests: Requests

    @cached_property
    def calibrated(self) -> Calibrated:
        """Network calibrated by the default, whose costs follow the length of the texts."""
        fitted, _ = self.study.calibrated()
        return Calibrated(
            self.network,
            fitted.exits,
            fitted.ensemble,
            cost.count(self.network, self.requests.example),
            fingerprint(self.network),
        )

    @cached_property
    def plain_macs(self) -> float:
        """Mean multiply-adds of the plain network for a test text, padding of its batch included."""
        return self.mean_plain_macs("test")

    def mean_plain_macs(self, part: str) -> float:
        """Return the mean multiply-adds of the plain network for a text, padding of its batch included."""
        by_length: dict[int, int] = {}
        total = 0
        for batch in self.requests.batches(part):
            count, length = batch["input_ids"].shape
            if length not in by_length:
                by_length[length] = cost.macs(self.plain, inputs(batch))
            total += count * by_length[length]
        return total / len(getattr(self.requests, part))


def inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch without its labels."""
    return {key: value for key, value in batch.items() if key != "labels"}
