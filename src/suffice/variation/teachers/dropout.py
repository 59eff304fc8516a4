"""Monte Carlo dropout as a teacher: the variation of a prediction when units are dropped at random.

Masks are independent for every row and pass. A mask shared by the rows of a batch makes labels that look easy to
predict and are wrong. Gal and Ghahramani 2016.

Everything before the first dropped unit is computed once, the rest for many passes in one batch: `torch.vmap` maps the
passes, and under it a value stays single until a mask has touched it. A model that cannot be mapped (its control flow
depends on values, it writes into tensors, or an operation would be mapped by a loop), and attention, whose masks are
drawn in its kernel, runs whole on a repeated batch instead. Both ways use the same masks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from suffice.inputs import noted, prepare
from suffice.network import State, batch_size, check_finite
from suffice.storage.parts import Parts
from suffice.twin import inference
from suffice.utils import arguments, threads
from suffice.utils.nest import tree_leaves, tree_map_only
from suffice.utils.randomness import draw_from
from suffice.variation.teachers import masks, sites, spreads
from suffice.variation.teachers.passes import run_passes
from suffice.variation.teachers.plan import Plan, Recording, folds, make_plan
from suffice.variation.teachers.simplex import check_logits
from suffice.variation.teachers.sites import Sites
from suffice.variation.teachers.spreads import LikelihoodName, Variation
from suffice.variation.teachers.teacher import Teacher


@dataclass(frozen=True)
class MCDropout:
    """Teacher that runs passes of a model with dropout on and everything else in evaluation mode.

    Attributes:
        rate: Probability of dropping a unit, in (0, 1); None for the rate of each dropout module. Use the rate
            of training, or report the difference.
        at: Names or patterns (`fnmatch`) of modules, or "<input>" for the inputs. A module that drops units itself
            (dropout modules, attention, functional dropout) is activated; the output of any other module is dropped,
            which needs a rate. None for all that the network itself drops in training. A sequence is kept as a tuple.
        passes: Number T of passes, at least 2.
        likelihood: Meaning of the model's outputs: class logits (N, C), one logit (N,) or (N, 1), or predicted numbers.
        memory: Approximate bytes that masks and all that is computed from them may take at once.

    Example:
        >>> import torch, suffice
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 4))
        >>> teacher = suffice.MCDropout(passes=50)
        >>> variation = teacher(model, torch.randn(6, 3), generator=torch.Generator().manual_seed(0))
        >>> variation["std"].shape, variation.mean.shape, variation.passes
        (torch.Size([6]), torch.Size([6, 4]), 50)
    """

    rate: float | None = None
    at: str | Sequence[str] | None = None
    passes: int = 100
    likelihood: LikelihoodName = "classification"
    memory: int = 1 << 25

    def __post_init__(self) -> None:
        if self.at is not None and not isinstance(self.at, str):
            object.__setattr__(self, "at", sites.name_patterns(self.at))
        if self.rate is not None:
            sites.check_rate(self.rate)
        arguments.whole("passes", self.passes, least=2)
        spreads.check_likelihood(self.likelihood)

    def with_passes(self, passes: int) -> "MCDropout":
        """Return the same teacher with T = `passes`."""
        return replace(self, passes=passes)

    def configuration(self) -> dict[str, Any]:
        """Return the fields as an artifact stores them."""
        return asdict(self)

    @classmethod
    def from_parts(cls, parts: Parts, model: nn.Module) -> "MCDropout":
        """Read `configuration` back, for a model that has the named modules."""
        at, rate = sites.read_names_and_rate(parts, model)
        likelihood = parts.choice("likelihood", get_args(LikelihoodName))
        return cls(rate, at, parts.count("passes", 2), likelihood, parts.count("memory", 1))

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """Return the variation of the model's predictions for a batch.

        Args:
            model: Model with outputs (N, C), (N,) or (N, D), by `likelihood`; for a list of exits, the last is used.
            x: N examples, batch first.
            generator: Generator of the masks; None for the default generator of torch.

        Raises:
            ValueError: If no dropout is found, a name matches nothing, outputs are not finite or do not fit the
                likelihood (class probabilities in place of logits, for example), or dropout does not change the output
                of any example. Also for randomness that masks cannot replace: any in evaluation mode, and in training
                mode any other than dropout, unless `at` leaves it out.
            RuntimeError: If a chosen module did not run.
            MemoryError: If one pass of one example needs more than `memory`.
        """
        x = prepare(x, model)
        n = batch_size(x)
        if not n:
            raise ValueError("expected at least one example, got an empty batch")
        with inference(model) as model, noted(x):
            sample = _slice(x, 0, 2)
            chosen = sites.find(model, sample, self.rate, self.at)
            source = masks.Source(generator, _device_of(x))
            with _seeded(chosen, generator, x):
                plan = make_plan(model, sample, chosen, self.passes, self.memory)
                with threads.one_thread_if_small(plan.numbers):
                    starts = range(0, n, plan.rows)
                    parts = [self._variation(model, x, start, chosen, plan, source) for start in starts]
        if not any(changed for _, changed in parts):
            raise ValueError(
                f"expected dropout at {chosen.names} to change the predictions, got the same outputs in all "
                f"{self.passes} passes; choose modules that the output depends on"
            )
        return spreads.concatenate([variation for variation, _ in parts])

    def _variation(
        self, model: nn.Module, x: State, start: int, chosen: Sites, plan: Plan, source: masks.Source
    ) -> tuple[Variation, bool]:
        """Return the variation of the part of the batch from `start`, and whether dropout changed any output of it."""
        x = _slice(x, start, start + plan.rows)
        n, sums, changed = batch_size(x), None, False
        if chosen.attention:
            deterministic = spreads.finite_outputs(Recording().run(model, x, chosen), self.likelihood)
            sums = spreads.init(deterministic, self.likelihood)
        for count in folds(self.passes, plan.fold):
            ones = int(sums is None)  # the first fold begins with the deterministic pass
            factors = masks.draw(plan.units_of(n), count, source, ones)
            outputs = run_passes(model, x, chosen, factors, ones + count, plan)
            outputs = spreads.output_matrix(outputs, self.likelihood).view(ones + count, n, -1)
            check_finite(outputs.movedim(1, 0), "outputs", start)
            if self.likelihood == "classification":
                check_logits(outputs)
            if sums is None:
                deterministic, outputs = outputs[0], outputs[1:]
                sums = spreads.init(deterministic, self.likelihood)
            changed = changed or _differs(outputs, deterministic)
            sums = spreads.update(sums, outputs)
        assert sums is not None
        return spreads.variation(sums), changed


def configuration_of(teacher: Teacher | None) -> dict[str, Any] | None:
    """Return the configuration of a teacher as an artifact stores it.

    The format has no field for the kind of teacher, so only `MCDropout` is stored; None stands for any other.
    """
    return teacher.configuration() if isinstance(teacher, MCDropout) else None


@contextmanager
def _seeded(chosen: Sites, generator: torch.Generator | None, x: State) -> Iterator[None]:
    """Seed the default generators from `generator` where attention or the model itself draws random numbers."""
    if not (chosen.attention or chosen.draws):
        yield
        return
    device = torch.device("cpu") if generator is None else generator.device
    seed = int(torch.randint(2**62, (1,), generator=generator, device=device))
    with draw_from(torch.Generator().manual_seed(seed), x):
        yield


def _differs(outputs: Tensor, deterministic: Tensor) -> bool:
    """Return whether outputs (T, N, C) differ from the deterministic ones (N, C) by more than rounding.

    Rounding depends on the size of the batch: some fifty units in the last place in float32, three in bfloat16. An
    output is compared with its own size or that of most outputs, since a few may be masked by a huge negative number.
    """
    sizes = deterministic.abs().amax(dim=0)
    tolerance = torch.finfo(deterministic.dtype).eps ** 0.75 * torch.maximum(sizes, sizes.median())
    return bool(((outputs - deterministic).abs() > tolerance).any())


def _device_of(x: State) -> torch.device:
    return next(leaf.device for leaf in tree_leaves(x) if isinstance(leaf, Tensor))


def _slice(x: State, start: int, stop: int) -> State:
    """Return the examples from `start` to `stop`."""
    return tree_map_only(Tensor, lambda tensor: tensor[start:stop], x)
