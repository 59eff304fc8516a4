"""Features of one ordinary pass: activation strengths, one row of numbers per example, and the output itself.

    (N, D)          the D values
    (N, T, D)       mean and max over the T tokens of each of the D values
    (N, C, H, W)    mean and max over the positions of each of the C channels (any number of positions)

Chen et al. 2021 (arXiv 2008.07032) and Yu et al. 2021 (arXiv 2110.06435) predict from them how much a network's
answer varies. Layers are watched by forward hooks that leave the network's output as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation

from suffice.network import State, answer, batch_size, call, inference
from suffice.prediction import entropy
from suffice.variation.hooks import hooked, matching

_NOT_STRENGTHS = {"MultiheadAttention", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}
ACTIVATIONS = tuple(getattr(activation, name) for name in activation.__all__ if name not in _NOT_STRENGTHS)
"""Module classes whose output is watched where no layer is named."""

_ACTIVE = 0.01
"""Share of the training rows on which a strength has to be other than zero."""
_CLIP = 4.0


@dataclass(frozen=True)
class Scaling:
    """How features (N, F) become the inputs (N, K) of a small network.

    Strengths that are hardly ever active, and columns that are constant, are left out. The rest is standardised
    and clipped to ±4, and the strengths are weighed down until their variances sum to at most a quarter of those
    of the output's features, since there are many of them and each says little.

    columns: those kept, int64 (K,).  mean, scale: of the training rows, (K,).  weight: of each input, (K,).
    """

    columns: Tensor
    mean: Tensor
    scale: Tensor
    weight: Tensor

    @classmethod
    def fit(cls, features: Tensor, outputs: int) -> "Scaling":
        """From training features (N, F), of which the first `outputs` columns describe the output.

        Raises:
            ValueError: if no column varies.
        """
        active = (features != 0).double().mean(dim=0) >= _ACTIVE
        active[:outputs] = True
        deviation = features.double().std(dim=0)
        varies = deviation > 1e-6 * features.double().abs().amax(dim=0)
        columns = (active & varies).nonzero()[:, 0]
        if not len(columns):
            raise ValueError(
                f"expected training rows that differ, got {len(features)} rows with the same output and strengths; "
                "pass the inputs that the model is used on"
            )
        output = columns < outputs
        weight = 0.5 * math.sqrt(int(output.sum()) / max(1, int((~output).sum())))
        return cls(
            columns,
            features.double().mean(dim=0)[columns].float(),
            deviation[columns].float(),
            torch.where(output, 1.0, min(1.0, weight)),
        )

    def __call__(self, features: Tensor) -> Tensor:
        """Inputs (N, K) of features (N, F)."""
        return self._scores(features).clamp(-_CLIP, _CLIP) * self.weight

    def clipped_share(self, features: Tensor) -> Tensor:
        """Share (N,) of the inputs that were clipped."""
        return (self._scores(features).abs() > _CLIP).float().mean(dim=1)

    def to(self, device: torch.device) -> "Scaling":
        """The same on another device."""
        return Scaling(*(tensor.to(device) for tensor in vars(self).values()))

    def _scores(self, features: Tensor) -> Tensor:
        return (features[:, self.columns] - self.mean) / self.scale


def capture(model: nn.Module, x: State, layers: Sequence[str]) -> tuple[Any, Tensor]:
    """The output of one ordinary pass and the strengths of `layers`.

    A layer that runs more than once in a pass gives one set of strengths each time, in the order of running.

    Args:
        model: run in evaluation mode without gradients; every module's mode comes back.
        x: a batch of N examples, a tensor or a nest of tensors.
        layers: names of modules, from `layer_names`; none gives strengths (N, 0).

    Returns:
        The model's own output, bit for bit, and strengths (N, F) float32 in the order of `layers`.

    Raises:
        ValueError: if a name is not in the model, or a layer's output does not begin with the N examples.
        TypeError: if a layer's output is not a tensor.
        RuntimeError: if a layer did not run.
    """
    rows = batch_size(x)
    modules = matching(model, layers)
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}

    def watch(name: str, output: Tensor) -> None:
        seen[name].append(_summary(name, output, rows))

    with inference(model), hooked(modules, watch):
        output = call(model, x)
    columns = [summary for summaries in seen.values() for summary in summaries]
    return output, torch.cat(columns, dim=1) if columns else answer(output).new_empty(rows, 0).float()


def layer_names(model: nn.Module, layers: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of the layers to watch, in the model's order.

    Args:
        model: its modules are searched.
        layers: names or patterns (`fnmatch`), or None for every activation module (`ACTIVATIONS`).

    Raises:
        ValueError: if there is no activation module, or a pattern matches nothing.
    """
    if layers is not None:
        return tuple(matching(model, layers))
    found = tuple(name for name, module in model.named_modules() if name and isinstance(module, ACTIVATIONS))
    if not found:
        raise ValueError(
            "expected a model with activation modules (nn.ReLU, nn.GELU, …), found none: activations called as "
            "functions cannot be seen; name the layers to watch, layers=[…], or pass layers=[] for the output alone"
        )
    return found


def output_features(logits: Tensor) -> Tensor:
    """What the output alone tells: (N, C + min(C, 5) + 3) float32 of logits (N, C).

    Centred logits, in the order of the classes; the largest log-probabilities, sorted; the log-odds of the top
    class; the entropy in nats and its logarithm.
    """
    logits = logits.float()
    log_probs = logits.log_softmax(dim=-1)
    ranked = log_probs.sort(dim=-1, descending=True).values
    log_odds = ranked[:, :1] - ranked[:, 1:].logsumexp(dim=-1, keepdim=True)
    spread = entropy(log_probs)[:, None]
    centred = logits - logits.mean(dim=-1, keepdim=True)
    return torch.cat([centred, ranked[:, :5], log_odds, spread, spread.clamp_min(1e-8).log()], dim=1)


def _summary(name: str, output: Tensor, rows: int) -> Tensor:
    """Strengths (N, F) float32 of one layer; a copy, since a later in-place operation may overwrite `output`."""
    if output.ndim < 2 or len(output) != rows:
        raise ValueError(
            f"expected an output of layer {name!r} with the {rows} examples first, got shape "
            f"{tuple(output.shape)}; leave that layer out"
        )
    values = output.detach().to(torch.float32, copy=True)
    if output.ndim == 2:
        return values
    if output.ndim == 3:
        return torch.cat([values.mean(dim=1), values.amax(dim=1)], dim=1)
    positions = values.flatten(start_dim=2)
    return torch.cat([positions.mean(dim=2), positions.amax(dim=2)], dim=1)
