"""Which predictions vary least and most: a classifier of the lowest and the highest share, from one pass.

The task of Chen et al. 2021 (arXiv 2008.07032) beside the regression: where only those matter that a system may trust
blindly or has to look at, two probabilities say it without a threshold on the spread.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from suffice import batches
from suffice.batches import Loader
from suffice.network import State, check_finite, placement
from suffice.storage.fingerprint import fingerprint
from suffice.storage.parts import Parts, Range
from suffice.storage.seal import Seal, unchanged
from suffice.storage.stored import Stored
from suffice.storage.structure import structure_of
from suffice.utils.modes import default_modes, full_precision
from suffice.variation.features.reader import Reader
from suffice.variation.features.scaling import Scaling
from suffice.variation.features.strengths import Kind
from suffice.variation.learning import labels, mlp, rows
from suffice.variation.learning.fit import from_named, named
from suffice.variation.teachers.teacher import Teacher


@dataclass(frozen=True, eq=False)
class Buckets(Stored):
    """A model that says with each answer whether it is among those that vary least or most. Made by `fit_buckets`.

    Attributes:
        model: the model, its weights untouched.
        reader: what is read of a pass.
        share: of the training rows that each bucket holds.
        network_hash: `fingerprint` of the model's weights at fitting.
        scaling: how features become inputs.
        weights: of the small network.
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
        object.__setattr__(self, "_seal", Seal(self.model, self.network_hash, [self.model]))

    @torch.no_grad()
    def __call__(self, x: State) -> tuple[Any, Tensor]:
        """The model's own output, and probabilities (N, 2) to be among the lowest and among the highest.

        Raises:
            ValueError: if an output is not finite, or the model's weights are no longer those at fitting.
        """
        with self._seal.twin() as model:
            output, parts = self.reader.read(model, x)
        read = torch.cat(parts, dim=1)
        with full_precision():
            probs = mlp.forward(self.weights, self.scaling.apply(read).inputs).sigmoid()
        check_finite(read if bool(probs.isfinite().all()) else probs, "outputs")
        return output, probs

    def check_weights(self) -> None:
        """Raise a ValueError unless the model's weights are, to the byte, those at fitting."""
        self._seal.check_weights()

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact; the model's weights stay with the model."""
        configuration = {
            "network_hash": self.network_hash,
            "structure": self._seal.structure,
            "reader": asdict(self.reader),
            "share": self.share,
        }
        return configuration, named(self.scaling, self.weights)

    @classmethod
    def from_parts(cls, parts: Parts, network: nn.Module | None) -> "Buckets":
        """The reverse of `parts`, for the model that it was made from.

        Raises:
            TypeError: if the model is missing.
            ValueError: if its weights are not those at fitting, or a part is not what it can be.
        """
        network_hash = parts.digest("network_hash")
        network = unchanged(network, network_hash, structure_of(parts))
        reader = Reader.from_parts(parts.inner("reader"), network)
        share = parts.number("share", Range(above=0, below=0.5))
        scaling, weights = from_named(parts, 2)
        device = placement(network)[0]
        placed = tuple(weight.to(device) for weight in weights)
        return cls(network, reader, share, network_hash, scaling.to(device), placed)


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
    """Learn which predictions vary least and most.

    Args:
        model: answers as its teacher's likelihood says.
        train_loader: batches of inputs, as for `fit_variation`.
        val_loader: other inputs, on which fitting stops.
        teacher: what gives the spreads; their quantiles are the buckets' bounds.
        share: of the rows that each bucket holds, in (0, ½).
        layers: as for `fit_variation`, but for "auto".
        target: a spread, as for `fit_variation`.
        strengths: as for `fit_variation`.
        hidden: widths of the small network's hidden layers.
        epochs: at most so many passes over the training rows.
        generator: randomness of teacher and fit.

    Raises:
        TypeError: as `fit_variation`.
        ValueError: for a share out of range, layers="auto", and as `fit_variation`.
    """
    if not 0 < share < 0.5 or layers == "auto":
        raise ValueError(f"expected a share in (0, 0.5) and layers that are named, got {share=}, {layers=}")
    labels.check_asked(model, teacher)
    batches.check_loader(val_loader)
    likelihood, train_loader = labels.likelihood_of(model, train_loader, teacher)
    reader = rows.reader(model, teacher, layers, strengths, False, likelihood)
    seen = rows.collected(rows.batchwise(model, labels.each(model, train_loader, teacher, target, generator), reader))
    rows.mean_label(seen.labels, target)
    unseen = rows.collected(rows.batchwise(model, labels.each(model, val_loader, teacher, target, generator), reader))
    bounds = (
        seen.labels[:, 0].double().sort().values[[int(share * len(seen.labels)), -1 - int(share * len(seen.labels))]]
    )
    scaling = Scaling.fit(seen.features, seen.widths[0])
    inputs = scaling.apply(seen.features).inputs
    weights = mlp.train(
        mlp.initial(inputs.shape[1], hidden, 2, inputs.device, generator),
        (inputs, _members(seen.labels[:, 0], bounds)),
        (scaling.apply(unseen.features).inputs, _members(unseen.labels[:, 0], bounds)),
        functional.binary_cross_entropy_with_logits,
        epochs,
        generator,
    )
    return Buckets(model, reader, share, fingerprint(model), scaling, tuple(weight.detach() for weight in weights))


def _members(labels: Tensor, bounds: Tensor) -> Tensor:
    """Whether labels (N,) are below the lower bound and above the upper one, (N, 2) of 0 and 1."""
    return torch.stack([labels < bounds[0], labels > bounds[1]], dim=1).float()
