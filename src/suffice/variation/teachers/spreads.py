"""Variation of predictions over passes, from sums that are updated as passes come.

T passes give outputs (T, N, C). With k the top class of the deterministic forward pass:

    classification    p_t = softmax of the logits
        std                   √ Var_t[p_tk]             standard deviation of the top class's probability
        std_mean              √ mean_c Var_t[p_tc]      root of the variance averaged over classes
        mutual_information    H[mean_t p_t] − mean_t H[p_t]             nats, biased low at small T
        disagreement          mean over pairs s ≠ t of KL(p_s ‖ p_t)    nats, a U-statistic
    binary            z_t = the logit
        std                   √ Var_t[z_t]              of the logit: that of the probability mostly follows p(1 − p)
        std_probability       √ Var_t[σ(z_t)]
    multilabel        p_t = σ of the logit, one for each of D labels
        std                   √ mean_d Var_t[p_td]
        mutual_information    Σ_d h(mean_t p_td) − mean_t h(p_td)               nats, h the entropy of present or absent
        disagreement          Σ_d mean over pairs s ≠ t of KL(p_sd ‖ p_td)      nats, a U-statistic
    regression        y_t = the prediction, one for each of D outputs
        std                   √ mean_d Var_t[y_td]      in the units of the prediction

With D > 1 each output has a spread of its own too, `std_0` to `std_{D−1}`. Variances have divisor T − 1. Sums are of
deviations from the deterministic forward pass, in float64. The definitions are those of arXiv 2110.06435.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from suffice.network import check_finite, output_tensor
from suffice.prediction import entropy
from suffice.variation.teachers.simplex import check_logits

LikelihoodName = Literal["classification", "binary", "multilabel", "regression"]
LIKELIHOODS: tuple[str, ...] = get_args(LikelihoodName)
_NAMED = 5
"""Number of spreads that are named in one line."""


@dataclass(frozen=True)
class Variation:
    """Spread of the predictions for a batch under a teacher.

    Attributes:
        mean: Mean over the passes, (N, C) float64: probabilities for a classification or several labels, else logits
            or predictions (N, D). It differs from the prediction of the deterministic forward pass.
        spreads: Mapping from the names above to spreads (N,) float64.
        passes: Number T of passes that they were computed from.
        likelihood: Meaning of the outputs.
    """

    mean: Tensor
    spreads: Mapping[str, Tensor]
    passes: int
    likelihood: LikelihoodName = "classification"

    def __repr__(self) -> str:
        """Describe the batch in one line; the fields hold the numbers."""
        kind = "classes" if self.likelihood == "classification" else "outputs"
        names = ", ".join(list(self.spreads)[:_NAMED]) + (", …" if len(self.spreads) > _NAMED else "")
        return f"Variation({len(self):,} examples, {self.mean.shape[1]:,} {kind}, {self.passes:,} passes: {names})"

    def __getitem__(self, name: str) -> Tensor:
        """Return the spread (N,) with a name.

        Raises:
            KeyError: If there is no spread with that name.
        """
        if name not in self.spreads:
            raise KeyError(f"expected one of the spreads {list(self.spreads)}, got {name!r}")
        return self.spreads[name]

    def __len__(self) -> int:
        """Return N, the number of examples."""
        return len(self.mean)


@dataclass(frozen=True)
class Sums:
    """Sums over passes of deviations d from the deterministic forward pass, in float64.

    A value has a companion: that of class probabilities is their logarithm, that of a label's probability its logit,
    and that of a logit its probability.

    Attributes:
        likelihood: Meaning of the outputs.
        deterministic: Values of the deterministic forward pass, (N, C), under "value" and "companion".
        first: Σ_t d, (N, C), by the same names.
        second: Σ_t d², (N, C), by the same names.
        cross: Σ_t Σ_c d_value · d_companion, (N,).
        entropies: Σ_t H[p_t], (N,), nats; for several labels their sum.
        passes: Number of passes in the sums.
    """

    likelihood: LikelihoodName
    deterministic: Mapping[str, Tensor]
    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    cross: Tensor
    entropies: Tensor
    passes: int


def init(deterministic: Tensor, likelihood: LikelihoodName) -> Sums:
    """Return sums of no passes, about the outputs (N, C) of the deterministic forward pass."""
    values = _values(deterministic, likelihood)
    zeros = {name: torch.zeros_like(value) for name, value in values.items()}
    rows = torch.zeros_like(values["value"][:, 0])
    return Sums(likelihood, values, zeros, zeros, rows, rows, 0)


def update(sums: Sums, outputs: Tensor) -> Sums:
    """Add passes with outputs (t, N, C)."""
    values = _values(outputs, sums.likelihood)
    deviations = {name: value - sums.deterministic[name] for name, value in values.items()}
    updated = replace(
        sums,
        first={name: sums.first[name] + d.sum(dim=0) for name, d in deviations.items()},
        second={name: sums.second[name] + d.square().sum(dim=0) for name, d in deviations.items()},
        passes=sums.passes + len(outputs),
    )
    if sums.likelihood not in ("classification", "multilabel"):
        return updated
    cross = (deviations["value"] * deviations["companion"]).sum(dim=(0, 2))
    entropies = _entropy(values, sums.likelihood).sum(dim=0)
    return replace(updated, cross=sums.cross + cross, entropies=sums.entropies + entropies)


def variation(sums: Sums, divisor: int | None = None) -> Variation:
    """Return the variation over the passes in the sums.

    Args:
        sums: Sums over at least two passes.
        divisor: Divisor of variances; None for T − 1, which is right for independent passes.
    """
    divisor = sums.passes - 1 if divisor is None else divisor
    variances = {
        name: ((sums.second[name] - sums.first[name].square() / sums.passes) / divisor).clamp_min(0)
        for name in sums.first
    }
    mean = sums.deterministic["value"] + sums.first["value"] / sums.passes
    if sums.likelihood == "classification":
        spreads = _classification_spreads(sums, variances["value"], mean.clamp_min(0), divisor)
        return Variation(mean.clamp_min(0), spreads, sums.passes, sums.likelihood)
    if sums.likelihood == "multilabel":
        mean = mean.clamp(0, 1)
    spreads = {"std": variances["value"].mean(dim=1).sqrt()}
    if sums.likelihood == "binary":
        spreads["std_probability"] = variances["companion"].mean(dim=1).sqrt()
    if sums.likelihood == "multilabel":
        total = (torch.special.entr(mean) + torch.special.entr(1 - mean)).sum(dim=-1)
        spreads |= _information_spreads(sums, total, divisor)
    if mean.shape[1] > 1:
        spreads |= {f"std_{d}": variance.sqrt() for d, variance in enumerate(variances["value"].unbind(dim=1))}
    return Variation(mean, spreads, sums.passes, sums.likelihood)


def concatenate(variations: Sequence[Variation]) -> Variation:
    """Concatenate the variations of batches that one teacher measured.

    Raises:
        ValueError: If there is none, or if they come from different numbers of passes.
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


def check_likelihood(likelihood: str) -> None:
    """Raise a ValueError unless `likelihood` is one of `LIKELIHOODS`."""
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"expected likelihood to be one of {LIKELIHOODS}, got {likelihood!r}")


def finite_outputs(output: Any, likelihood: str) -> Tensor:
    """Return the outputs (N, C) of a model, checked for NaN and infinity, and for probabilities in place of logits.

    Args:
        output: Return value of the model: class logits (N, C), a binary logit (N,) or (N, 1), or predictions (N,) or
            (N, D). The first element of a tuple counts, and the last of a list of exits.
        likelihood: Meaning of the outputs. It is never guessed from their values.

    Raises:
        TypeError: If the output is not a tensor.
        ValueError: If it has the wrong shape, a value is not finite, or class logits are certainly probabilities.
    """
    outputs = output_matrix(output, likelihood)
    check_finite(outputs.detach(), "outputs")
    if likelihood == "classification":
        check_logits(outputs)
    return outputs


def output_matrix(output: Any, likelihood: str) -> Tensor:
    """Return the outputs (N, C) of a model as `finite_outputs` does, with only their shape and type checked."""
    outputs = output_tensor(output)
    shape = tuple(outputs.shape)
    if not outputs.is_floating_point():
        raise ValueError(
            f"expected floating-point outputs, logits or predicted numbers, got {outputs.dtype}; wrap the model so "
            "that it returns those instead of labels"
        )
    if outputs.ndim not in (1, 2) or 0 in shape[1:]:
        fits = "(N, C)" if likelihood == "classification" else "(N,) or (N, D)"
        raise ValueError(
            f"expected an output of shape {fits} under likelihood={likelihood!r}, got shape {shape}; wrap the model so "
            "that it returns one row of numbers per example"
        )
    columns = 1 if outputs.ndim == 1 else shape[1]
    if likelihood == "classification" and columns == 1:
        raise ValueError(
            f"expected logits of shape (N, C) with at least 2 classes, got shape {shape}, one number per example; pass "
            "likelihood='binary' if it is a logit, or 'regression' if it is a predicted number"
        )
    if likelihood == "binary" and columns > 1:
        raise ValueError(
            f"expected one logit per example under likelihood='binary', got shape {shape}; pass "
            "likelihood='classification' if they are the logits of classes, 'multilabel' if each is a label's, or "
            "'regression' for the spread of each number"
        )
    return outputs[:, None] if outputs.ndim == 1 else outputs


def _values(outputs: Tensor, likelihood: LikelihoodName) -> dict[str, Tensor]:
    """Return the values of outputs (…, C) whose spread is measured, and their companions, in float64."""
    outputs = outputs.double()
    if likelihood == "classification":
        log_probs = outputs.log_softmax(dim=-1)
        return {"value": log_probs.exp(), "companion": log_probs}
    if likelihood == "multilabel":
        return {"value": outputs.sigmoid(), "companion": outputs}
    return {"value": outputs, "companion": outputs.sigmoid()} if likelihood == "binary" else {"value": outputs}


def _entropy(values: Mapping[str, Tensor], likelihood: LikelihoodName) -> Tensor:
    """Return the entropies (…,) in nats of probabilities (…, C) with their companions."""
    if likelihood == "multilabel":
        terms: Tensor = torch.special.entr(values["value"]) + torch.special.entr((-values["companion"]).sigmoid())
        return terms.sum(dim=-1)
    return entropy(values["companion"])


def _classification_spreads(sums: Sums, variance: Tensor, mean: Tensor, divisor: int) -> dict[str, Tensor]:
    """Return the spreads of a classification."""
    top = sums.deterministic["value"].argmax(dim=-1, keepdim=True)
    return {
        "std": variance.gather(-1, top)[:, 0].sqrt(),
        "std_mean": variance.mean(dim=-1).sqrt(),
        **_information_spreads(sums, torch.special.entr(mean).sum(dim=-1), divisor),
    }


def _information_spreads(sums: Sums, total: Tensor, divisor: int) -> dict[str, Tensor]:
    """Return the spreads that compare distributions, from the entropy (N,) of the mean probabilities.

    The mean over pairs of KL is Σ_c Cov_t[p_tc, log p_tc] for classes, and Σ_d Cov_t[p_td, logit_td] for labels.
    """
    product = (sums.first["value"] * sums.first["companion"]).sum(dim=-1)
    return {
        "mutual_information": (total - sums.entropies / sums.passes).clamp_min(0),
        "disagreement": ((sums.cross - product / sums.passes) / divisor).clamp_min(0),
    }
