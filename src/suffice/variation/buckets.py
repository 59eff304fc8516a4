"""Classifier of the predictions that vary least and most, in one deterministic forward pass.

This is the classification task of Chen et al. 2021 (arXiv 2008.07032), next to the regression of `fit_variation`. For
a system that accepts some predictions without review and reviews others, two probabilities replace a threshold on the
spread.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from suffice import batches, metrics
from suffice.batches import Loader
from suffice.inputs import prepare
from suffice.network import State, check_finite, placement
from suffice.storage.fingerprint import fingerprint, read_structure
from suffice.storage.parts import Parts, Range
from suffice.storage.seal import Seal, check_unchanged
from suffice.storage.serializable import Serializable
from suffice.utils.modes import default_modes, full_precision
from suffice.variation.features.reader import Reader
from suffice.variation.features.scaling import Scaling
from suffice.variation.features.strengths import Kind
from suffice.variation.learning import labels, mlp, rows
from suffice.variation.learning.fitted_mlp import network_tensors, read_network
from suffice.variation.learning.repeats import warn_if_repeated
from suffice.variation.learning.rows import Rows
from suffice.variation.learning.target import Target
from suffice.variation.teachers.teacher import Teacher

_FEWEST = 10
"""Number of training rows in a bucket below which there is a warning; equal spreads are in none."""


@dataclass(frozen=True, eq=False)
class Buckets(Serializable):
    """Model with the probabilities (N, 2) that each prediction varies least, or most. Made by `fit_buckets`.

    Attributes:
        model: Model, with its weights unchanged.
        reader: Reader of the features.
        share: Fraction of the training rows in each bucket.
        network_hash: `fingerprint` of the model's weights at fitting.
        scaling: Map from features to inputs of the small network.
        weights: Weights of the small network: matrix, bias, matrix, bias, ….
    """

    model: nn.Module
    reader: Reader
    share: float
    network_hash: str
    scaling: Scaling
    weights: tuple[Tensor, ...]
    _seal: Seal[nn.Module] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_seal", Seal(self.model, self.network_hash))

    @torch.no_grad()
    def __call__(self, x: State) -> tuple[Any, Tensor]:
        """Run the model once and compute the probabilities of the two buckets.

        Args:
            x: Batch of N examples, batch first.

        Returns:
            The model's own output, bit for bit, and probabilities (N, 2) of being among the lowest and the highest.

        Raises:
            ValueError: If an output is not finite, or the model's weights differ from those at fitting.
        """
        with self._seal.twin() as model:
            output, parts = self.reader.read(model, prepare(x, self.model))
        features = torch.cat(parts, dim=1)
        with full_precision():
            probs = mlp.forward(self.weights, self.scaling.apply(features).inputs).sigmoid()
        check_finite(features if bool(probs.isfinite().all()) else probs, "outputs")
        return output, probs

    def check_weights(self) -> None:
        """Raise a ValueError unless the model's weights are, to the byte, those at fitting."""
        self._seal.check_weights()

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact; the model's weights stay with the model."""
        reader, tensors = self.reader.parts()
        configuration = {
            "network_hash": self.network_hash,
            "structure": self._seal.structure,
            "reader": reader,
            "share": self.share,
        }
        return configuration, {**network_tensors(self.scaling, self.weights), **tensors}

    @classmethod
    def from_parts(cls, parts: Parts, network: nn.Module | None) -> "Buckets":
        """Read buckets from `parts`, for the model that they were fitted to.

        Raises:
            TypeError: If the model is missing.
            ValueError: If its weights differ from those at fitting, or a field or tensor is invalid.
        """
        network_hash = parts.digest("network_hash")
        network = check_unchanged(network, network_hash, read_structure(parts))
        reader = Reader.from_parts(parts.inner("reader", ""), network)
        share = parts.number("share", Range(above=0, below=0.5))
        scaling, weights = read_network(parts, 2)
        device = placement(network)[0]
        placed = tuple(weight.to(device) for weight in weights)
        return cls(network, reader.to(device), share, network_hash, scaling.to(device), placed)


@default_modes()
def fit_buckets(
    model: nn.Module,
    train_loader: Loader,
    val_loader: Loader,
    *,
    teacher: Teacher,
    share: float = 0.1,
    layers: str | Sequence[str] | None = None,
    target: str = "std",
    strengths: Kind = "value",
    hidden: Sequence[int] = (64, 64),
    epochs: int = 40,
    generator: torch.Generator | None = None,
) -> Buckets:
    """Fit a classifier of the predictions that vary least and most.

    Args:
        model: Model with outputs of the teacher's likelihood.
        train_loader: Batches of inputs, as for `fit_variation`.
        val_loader: Batches of other inputs, for early stopping.
        teacher: Teacher of the spreads; their quantiles are the bounds of the buckets.
        share: Fraction of the rows in each bucket, in (0, ½).
        layers: Layers to read, as for `fit_variation`, but not "auto".
        target: Spread, as for `fit_variation`.
        strengths: Kind of strengths, as for `fit_variation`.
        hidden: Widths of the hidden layers of the small network.
        epochs: Maximum number of passes over the training rows.
        generator: Generator of the teacher and the fit.

    A warning is issued if a bucket has fewer than ten training rows or no validation row, as with equal spreads, if the
    validation rows are ranked no better than by chance, or if they are training rows.

    Raises:
        TypeError: As `fit_variation`.
        ValueError: For a share out of range, for layers="auto", and as `fit_variation`.

    Example:
        >>> import torch, suffice
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
        >>> train, val, teacher = torch.randn(200, 3), torch.randn(50, 3), suffice.MCDropout(passes=8)
        >>> buckets = suffice.fit_buckets(model, [train], [val], teacher=teacher, epochs=2)
        >>> output, probs = buckets(torch.randn(5, 3))  # of varying least, and most
        >>> probs.shape
        torch.Size([5, 2])
    """
    if not 0 < share < 0.5 or layers == "auto":
        raise ValueError(f"expected a share in (0, 0.5) and named layers, got {share=}, {layers=}")
    labels.check_model_and_teacher(model, teacher)
    batches.check_loader(val_loader)
    spread = Target(target)
    likelihood, example, train_loader = labels.examine(model, train_loader, teacher)
    reader = rows.make_reader(model, example, teacher, layers, strengths, False, likelihood).low_rank(model, example)

    def read(loader: Loader) -> Rows:
        labeled = labels.label_batches(model, loader, teacher, spread, generator)
        return rows.concatenate(rows.read_rows(model, labeled, reader))

    train = read(train_loader)
    rows.mean_label(train.labels, spread)
    validation = read(val_loader)
    if train.keys is not None and validation.keys is not None:
        warn_if_repeated(train.keys, validation.keys, stacklevel=3)
    weights, scaling, problems = _train_classifier(train, validation, share, hidden, epochs, generator)
    if problems:
        warnings.warn(
            f"expected buckets that the rows support, got {'; '.join(problems)}; pass more rows, a larger share, or a "
            "teacher with more passes",
            stacklevel=3,
        )
    return Buckets(model, reader, share, fingerprint(model), scaling, weights)


def _train_classifier(
    train: Rows, stopping: Rows, share: float, hidden: Sequence[int], epochs: int, generator: torch.Generator | None
) -> tuple[tuple[Tensor, ...], Scaling, list[str]]:
    """Train the small network with two outputs.

    Returns:
        Its weights, the scaling of its features, and what the rows do not support.
    """
    spreads, count = train.labels[:, 0].double().sort().values, int(share * len(train.labels))
    bounds = spreads[[count, -1 - count]]
    scaling = Scaling.fit(train.features, train.output_width())
    inputs, others = (scaling.apply(part.features).inputs for part in (train, stopping))
    members, other_members = (_memberships(part.labels[:, 0], bounds) for part in (train, stopping))
    weights = mlp.train(
        mlp.initial(inputs.shape[1], hidden, 2, inputs.device, generator),
        (inputs, members),
        (others, other_members),
        functional.binary_cross_entropy_with_logits,
        epochs,
        generator,
    )
    weights = [weight.detach() for weight in weights]
    return tuple(weights), scaling, _problems(members, other_members, mlp.forward(weights, others))


def _problems(members: Tensor, other_members: Tensor, logits: Tensor) -> list[str]:
    """Return why rows do not support their buckets: few rows, none of validation, or no better ranks than chance.

    Args:
        members: Memberships of the training rows, (N, 2) of 0 and 1.
        other_members: Memberships of the validation rows, (M, 2).
        logits: Logits of the validation rows, (M, 2).
    """
    found, rows_of_validation = [], len(other_members)
    for k, name in enumerate(("lowest", "highest")):
        count, others = int(members[:, k].sum()), int(other_members[:, k].sum())
        if count < _FEWEST:
            found.append(f"{count} of {len(members)} training rows among the {name}, fewer than {_FEWEST}")
        elif not 0 < others < rows_of_validation:
            found.append(f"{others} of {rows_of_validation} validation rows among the {name}")
        elif (area := float(metrics.auroc(logits[:, k], other_members[:, k]))) < 0.5:
            found.append(f"an AUROC of {area:.2f} for the {name} of the validation rows, no better than chance")
    return found


def _memberships(labels: Tensor, bounds: Tensor) -> Tensor:
    """Return whether labels (N,) are below the lower bound and above the upper one, as (N, 2) of 0 and 1."""
    return torch.stack([labels < bounds[0], labels > bounds[1]], dim=1).float()
