"""Variation: how much a prediction differs from pass to pass, from sums that are streamed.

T passes give outputs (T, N, C). With k the class that the ordinary pass, without dropout, ranks top:

    classification    p_t = softmax of the logits
        std                   √ Var_t[p_tk]             standard deviation of the top class's probability
        std_mean              √ mean_c Var_t[p_tc]      root of the variance averaged over classes
        mutual_information    H[mean_t p_t] − mean_t H[p_t]             nats, low on average at small T
        disagreement          mean over pairs s ≠ t of KL(p_s ‖ p_t)    nats, a U-statistic
    binary            z_t = the logit, one for each of D questions
        std                   √ mean_d Var_t[z_td]      of the logit: that of the probability mostly says p(1 − p)
        std_probability       √ mean_d Var_t[σ(z_td)]
    regression        y_t = the prediction, one for each of D outputs
        std                   √ mean_d Var_t[y_td]      in the units of the prediction

With D > 1 each output has spreads of its own too, `std_0` to `std_{D−1}`. Variances have divisor T − 1. Sums are
taken about the ordinary pass, in float64, as passes come. The definitions are those of arXiv 2110.06435.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from suffice.network import check_finite, output_tensor
from suffice.prediction import entropy

LikelihoodName = Literal["classification", "binary", "regression"]
LIKELIHOODS: tuple[str, ...] = get_args(LikelihoodName)


@dataclass(frozen=True)
class Variation:
    """What a teacher says about a batch.

    Attributes:
        mean: (N, C) float64, mean over the passes, which is not the ordinary pass's: probabilities for a
            classification, else logits or predictions (N, D).
        spreads: name → (N,) float64, by the names above.
        passes: T, how many passes they come from.
        likelihood: what the outputs are.
    """

    mean: Tensor
    spreads: Mapping[str, Tensor]
    passes: int
    likelihood: LikelihoodName = "classification"

    def __getitem__(self, name: str) -> Tensor:
        """The spread (N,) of that name.

        Raises:
            KeyError: for another name.
        """
        if name not in self.spreads:
            raise KeyError(f"expected one of the spreads {list(self.spreads)}, got {name!r}")
        return self.spreads[name]

    def __len__(self) -> int:
        """N, the number of examples."""
        return len(self.mean)


@dataclass(frozen=True)
class Sums:
    """Sums over passes of deviations from the ordinary pass; float64, add passes by `update`.

    ordinary: of the ordinary pass, name → (N, C): "value" and its companion.  first, second: Σd and Σd² of each.
    cross: Σ_t Σ_c d_value · d_companion, (N,).  entropies: Σ_t H[p_t], (N,).  passes: seen.
    The companion of the probabilities is their logarithm, that of the logit its probability.
    """

    likelihood: LikelihoodName
    deterministic: Mapping[str, Tensor]
    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    cross: Tensor
    entropies: Tensor
    passes: int


def init(deterministic: Tensor, likelihood: LikelihoodName) -> Sums:
    """No passes yet; `deterministic` are the outputs (N, C) of the ordinary pass."""
    values = _values(deterministic, likelihood)
    zeros = {name: torch.zeros_like(value) for name, value in values.items()}
    rows = torch.zeros_like(values["value"][:, 0])
    return Sums(likelihood, values, zeros, zeros, rows, rows, 0)


def update(sums: Sums, outputs: Tensor) -> Sums:
    """Add passes: outputs (t, N, C)."""
    values = _values(outputs, sums.likelihood)
    deviations = {name: value - sums.deterministic[name] for name, value in values.items()}
    added = replace(
        sums,
        first={name: sums.first[name] + d.sum(dim=0) for name, d in deviations.items()},
        second={name: sums.second[name] + d.square().sum(dim=0) for name, d in deviations.items()},
        passes=sums.passes + len(outputs),
    )
    if sums.likelihood != "classification":
        return added
    cross = (deviations["value"] * deviations["companion"]).sum(dim=(0, 2))
    entropies = entropy(values["companion"]).sum(dim=0)
    return replace(added, cross=sums.cross + cross, entropies=sums.entropies + entropies)


def variation(sums: Sums, divisor: int | None = None) -> Variation:
    """The variation of the passes seen.

    Args:
        sums: of at least two passes.
        divisor: of variances; None is T − 1, for independent passes.
    """
    divisor = sums.passes - 1 if divisor is None else divisor
    variances = {
        name: ((sums.second[name] - sums.first[name].square() / sums.passes) / divisor).clamp_min(0)
        for name in sums.first
    }
    mean = sums.deterministic["value"] + sums.first["value"] / sums.passes
    if sums.likelihood == "classification":
        spreads = _disagreements(sums, variances["value"], mean.clamp_min(0), divisor)
        return Variation(mean.clamp_min(0), spreads, sums.passes, sums.likelihood)
    spreads = {"std": variances["value"].mean(dim=1).sqrt()}
    if sums.likelihood == "binary":
        spreads["std_probability"] = variances["companion"].mean(dim=1).sqrt()
    if mean.shape[1] > 1:
        spreads |= {f"std_{d}": variance.sqrt() for d, variance in enumerate(variances["value"].unbind(dim=1))}
    return Variation(mean, spreads, sums.passes, sums.likelihood)


def concatenate(variations: Sequence[Variation]) -> Variation:
    """Batches of one teacher joined into one.

    Raises:
        ValueError: if there is none, or they come from different numbers of passes.
    """
    passes = {variation.passes for variation in variations}
    if len(passes) != 1:
        raise ValueError(f"expected variations of one number of passes, got {sorted(passes)}")
    names = variations[0].spreads
    return replace(
        variations[0],
        mean=torch.cat([variation.mean for variation in variations]),
        spreads={name: torch.cat([variation[name] for variation in variations]) for name in names},
    )


def learnable(target: str) -> bool:
    """Whether a spread of that name has a power that a few passes estimate without bias."""
    return target == "disagreement" or target == "std" or target.startswith("std_")


def power(target: str) -> float:
    """The power of a spread that a few passes estimate without bias: 2 for deviations, 1 for the disagreement.

    Raises:
        ValueError: for a spread without one.
    """
    if learnable(target):
        return 1.0 if target == "disagreement" else 2.0
    raise ValueError(
        f"expected target to be 'std', another deviation or 'disagreement', got {target!r}; the mutual information "
        "of a few passes is biased, so it cannot be learned from them"
    )


def check_likelihood(likelihood: str) -> None:
    """Raise a ValueError unless it is one of `LIKELIHOODS`."""
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"expected likelihood to be one of {LIKELIHOODS}, got {likelihood!r}")


def outputs(output: Any, likelihood: str) -> Tensor:
    """What a model answers with, (N, C): class logits, D logits or D predictions; (N,) becomes (N, 1).

    Args:
        output: of the model; the first of a tuple counts, and the last of a list of exits.
        likelihood: what it is; shapes are checked, values never looked at to guess it.

    Raises:
        TypeError: if it is not a tensor.
        ValueError: if its shape is another, or a value is not finite.
    """
    found = shaped(output, likelihood)
    check_finite(found.detach(), "outputs")
    return found


def shaped(output: Any, likelihood: str) -> Tensor:
    """The same, without a look at the values."""
    found = output_tensor(output)
    if likelihood == "classification":
        if found.ndim != 2 or found.shape[1] < 2:
            raise ValueError(
                f"expected logits of shape (N, C) with at least 2 classes, got shape {tuple(found.shape)}; wrap the "
                "model so that it returns one row of class logits per example, or pass likelihood='binary' or "
                "'regression'"
            )
    elif found.ndim not in (1, 2):
        raise ValueError(
            f"expected an output of shape (N,) or (N, D) under likelihood={likelihood!r}, got shape "
            f"{tuple(found.shape)}; wrap the model so that it returns one row of numbers per example"
        )
    return found[:, None] if found.ndim == 1 else found


def _values(found: Tensor, likelihood: LikelihoodName) -> dict[str, Tensor]:
    found = found.double()
    if likelihood == "classification":
        log_probs = found.log_softmax(dim=-1)
        return {"value": log_probs.exp(), "companion": log_probs}
    return {"value": found, "companion": found.sigmoid()} if likelihood == "binary" else {"value": found}


def _disagreements(sums: Sums, variance: Tensor, mean: Tensor, divisor: int) -> dict[str, Tensor]:
    """The spreads of a classification. The mean over pairs of KL is Σ_c Cov_t[p_tc, log p_tc]."""
    top = sums.deterministic["value"].argmax(dim=-1, keepdim=True)
    product = (sums.first["value"] * sums.first["companion"]).sum(dim=-1)
    return {
        "std": variance.gather(-1, top)[:, 0].sqrt(),
        "std_mean": variance.mean(dim=-1).sqrt(),
        "mutual_information": (torch.special.entr(mean).sum(dim=-1) - sums.entropies / sums.passes).clamp_min(0),
        "disagreement": ((sums.cross - product / sums.passes) / divisor).clamp_min(0),
    }
