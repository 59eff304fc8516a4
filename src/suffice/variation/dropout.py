"""Monte Carlo dropout as a teacher: how much a prediction varies when units are dropped at random.

T passes with independent masks give probabilities p_t (N, C). With k the class that the ordinary pass, without
dropout, ranks top:

    std                   √ Var_t[p_tk]             standard deviation of the top class's probability
    std_mean              √ mean_c Var_t[p_tc]      root of the variance averaged over classes
    mutual_information    H[mean_t p_t] − mean_t H[p_t]     nats

Variances have divisor T − 1. Sums are taken about the ordinary pass's probabilities, in float64, as passes
come. Masks are independent for every row: a mask shared by the rows of a batch makes labels that look easy to
predict and are wrong. Gal and Ghahramani 2016; the definitions are those of arXiv 2110.06435.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from suffice.network import State, batch_size, check_finite, inference
from suffice.prediction import entropy
from suffice.variation.strengths import final_logits, hooked, matching

_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_DROPOUTS = (nn.Dropout, *_CHANNELS)
_REFUSED = (nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class Variation:
    """What a teacher says about a batch.

    Attributes:
        mean: (N, C) float64, mean probabilities over the passes; not the ordinary pass's probabilities.
        spreads: name → (N,) float64; "std" and "std_mean" are in units of probability,
            "mutual_information" in nats.
        passes: T, how many passes they come from.
    """

    mean: Tensor
    spreads: Mapping[str, Tensor]
    passes: int

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


def concatenate(variations: Sequence[Variation]) -> Variation:
    """Batches of one teacher joined into one.

    Raises:
        ValueError: if there is none, or they come from different numbers of passes.
    """
    passes = {variation.passes for variation in variations}
    if len(passes) != 1:
        raise ValueError(f"expected variations of one number of passes, got {sorted(passes)}")
    names = variations[0].spreads
    return Variation(
        torch.cat([variation.mean for variation in variations]),
        {name: torch.cat([variation[name] for variation in variations]) for name in names},
        variations[0].passes,
    )


class Teacher(Protocol):
    """Anything that says how predictions vary: its answer is what an estimator learns."""

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """The variation of the model's predictions for a batch x."""


@dataclass(frozen=True)
class MCDropout:
    """A teacher: passes of a model with dropout on, everything else in evaluation mode.

    Attributes:
        rate: chance of a unit to be dropped, in (0, 1); None takes each dropout module's own. Use the rate of
            training, or say that you did not.
        at: names or patterns (`fnmatch`) of modules. A dropout module named is made active, any other module
            named gets dropout on its output, which needs a rate. None: the model's own dropout modules.
        passes: T, at least 2.
        rows: how many rows a call of the model is given; passes are folded into the batch up to that.
    """

    rate: float | None = None
    at: str | Sequence[str] | None = None
    passes: int = 100
    rows: int = 1024

    def __post_init__(self) -> None:
        if self.rate is not None:
            check_rate(self.rate)
        if self.passes < 2:
            raise ValueError(f"expected at least 2 passes, got {self.passes}; a spread needs two")
        if self.rows < 1:
            raise ValueError(f"expected at least 1 row a call, got {self.rows}")

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """The variation of the model's predictions for a batch.

        Args:
            model: a classifier with logits (N, C), or a list of them of which the last counts.
            x: N examples, on the model's device.
            generator: randomness of the masks, drawn on the generator's own device; None is torch's default.

        Raises:
            ValueError: if no dropout is found, a name matches nothing, logits are not finite, or dropout
                changed nothing for any example.
            RuntimeError: if a chosen module did not run.
        """
        n = batch_size(x)
        if not n:
            raise ValueError("expected at least one example, got an empty batch")
        sites = find_sites(model, self.rate, self.at)
        batches = [_rows(x, start, start + self.rows) for start in range(0, n, self.rows)]
        with inference(model):
            parts = [self._variation(model, part, sites, generator) for part in batches]
        if not any(moved for _, moved in parts):
            raise ValueError(
                f"expected dropout at {[site.name for site in sites]} to change the predictions, got the same "
                f"logits in all {self.passes} passes; choose modules that the answer depends on"
            )
        return concatenate([variation for variation, _ in parts])

    def _variation(
        self, model: nn.Module, x: State, sites: "Sequence[Site]", generator: torch.Generator | None
    ) -> tuple[Variation, bool]:
        """Variation of at most `rows` examples, and whether dropout changed any of their logits."""
        ordinary = final_logits(model(x))
        check_finite(ordinary, "logits")
        n = len(ordinary)
        reference = ordinary.double().softmax(dim=-1)
        shift, square = torch.zeros_like(reference), torch.zeros_like(reference)
        entropies = torch.zeros_like(reference[:, 0])
        moved = False
        for fold in _folds(self.passes, max(1, self.rows // n)):
            with gated(sites, n * fold, lambda rate, units: _mask(rate, units, generator)):
                logits = final_logits(model(_repeated(x, fold)))
            check_finite(logits, "logits under dropout")
            moved = moved or _differs(logits.view(fold, n, -1), ordinary)
            log_probs = logits.double().log_softmax(dim=-1).view(fold, n, -1)
            deviation = log_probs.exp() - reference
            shift += deviation.sum(dim=0)
            square += deviation.square().sum(dim=0)
            entropies += entropy(log_probs).sum(dim=0)
        spreads = _spreads(reference, shift, square, entropies, self.passes)
        return Variation((reference + shift / self.passes).clamp_min(0), spreads, self.passes), moved


@dataclass(frozen=True)
class Site:
    """A place where units are dropped: a module's name, the rate, and whether whole channels go at once."""

    name: str
    module: nn.Module
    rate: float
    channels: bool


def find_sites(model: nn.Module, rate: float | None, at: str | Sequence[str] | None) -> list[Site]:
    """Where `MCDropout(rate, at)` drops units of a model.

    Raises:
        ValueError: if there is none, a name matches nothing, a module other than dropout is named without a
            rate, a rate is outside (0, 1), or a dropout keeps mean and variance (AlphaDropout).
    """
    modules = _own_dropout(model, rate) if at is None else matching(model, at)
    if not modules:
        raise ValueError(
            "expected a model with dropout modules of a rate above 0, found none: dropout called as a function, "
            "or inside attention, cannot be seen; name the modules whose output to drop, at=[…], with a rate"
        )
    return [_site(name, module, rate) for name, module in modules.items()]


def check_rate(rate: float, of: str = "") -> float:
    """The rate, if it is in (0, 1), else a ValueError."""
    if not 0 < rate < 1:
        raise ValueError(f"expected a dropout rate in (0, 1){of}, got {rate}")
    return rate


def gated(sites: Sequence[Site], rows: int, gate: Callable[[float, Tensor], Tensor]) -> AbstractContextManager[None]:
    """Multiply the output of each site by `gate(rate, units)` while the body runs.

    Args:
        sites: where.
        rows: rows of the batch that the model is given.
        gate: from a rate and an uninitialised tensor with one entry per unit that is dropped as a whole,
            (rows, …), to the factors of that shape.

    Raises:
        ValueError: if a site's output has no row of its own for each row of the batch.
    """
    by_name = {site.name: site for site in sites}

    def multiply(name: str, output: Tensor) -> Tensor:
        if output.ndim < 2 or len(output) % rows:
            raise ValueError(
                f"expected an output of module {name!r} with the {rows} rows of the batch first, got shape "
                f"{tuple(output.shape)}; rows that share a unit would share its mask: choose another module"
            )
        site = by_name[name]
        shape = output.shape[:2] + (1,) * (output.ndim - 2) if site.channels else output.shape
        return output * gate(site.rate, output.new_empty(shape))

    return hooked({site.name: site.module for site in sites}, multiply)


def _own_dropout(model: nn.Module, rate: float | None) -> dict[str, nn.Module]:
    """The model's dropout modules, without those whose own rate is 0 where that rate counts."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _DROPOUTS + _REFUSED) and (rate is not None or module.p > 0)
    }


def _site(name: str, module: nn.Module, rate: float | None) -> Site:
    if isinstance(module, _REFUSED):
        raise ValueError(
            f"expected Dropout or Dropout1d to 3d, got {type(module).__name__} at {name!r}, which does not "
            "multiply by a mask; name other modules in at=[…]"
        )
    if isinstance(module, _DROPOUTS):
        own = module.p if rate is None else rate
        return Site(name, module, check_rate(own, f" at {name!r}"), isinstance(module, _CHANNELS))
    if rate is None:
        raise ValueError(
            f"expected a rate for dropout on the output of {name!r} ({type(module).__name__}), which has none of "
            "its own; pass rate=…"
        )
    return Site(name, module, rate, channels=False)


def _mask(rate: float, units: Tensor, generator: torch.Generator | None) -> Tensor:
    """1/(1 − rate) with probability 1 − rate, else 0."""
    device = units.device if generator is None else generator.device
    kept = torch.rand(units.shape, device=device, generator=generator) >= rate
    return kept.to(units) / (1 - rate)


def _spreads(reference: Tensor, shift: Tensor, square: Tensor, entropies: Tensor, passes: int) -> dict[str, Tensor]:
    """The spreads (N,) from the sums over passes of p − reference, its square (N, C) and the entropy (N,)."""
    variance = ((square - shift.square() / passes) / (passes - 1)).clamp_min(0)
    top = reference.argmax(dim=-1, keepdim=True)
    mean = (reference + shift / passes).clamp_min(0)
    return {
        "std": variance.gather(-1, top)[:, 0].sqrt(),
        "std_mean": variance.mean(dim=-1).sqrt(),
        "mutual_information": (torch.special.entr(mean).sum(dim=-1) - entropies / passes).clamp_min(0),
    }


def _differs(logits: Tensor, ordinary: Tensor) -> bool:
    """Whether logits (T, N, C) differ from the ordinary ones (N, C) by more than rounding.

    Rounding depends on the size of the batch: some fifty units in the last place in float32, three in bfloat16.
    """
    tolerance = torch.finfo(ordinary.dtype).eps ** 0.75 * ordinary.abs().max()
    return bool((logits - ordinary).abs().max() > tolerance)


def _folds(passes: int, fold: int) -> Iterator[int]:
    """`passes` cut into parts of `fold`."""
    for start in range(0, passes, fold):
        yield min(fold, passes - start)


def _rows(x: State, start: int, stop: int) -> State:
    return tree_map_only(Tensor, lambda tensor: tensor[start:stop], x)


def _repeated(x: State, times: int) -> State:
    """The batch one time after the other."""
    return tree_map_only(Tensor, lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)), x)
