"""Examples of every class that can be saved: `MAKERS[kind][variant]()` returns a `Case`."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

import suffice
from suffice.budget.exit_variation import fit_exit_variation
from suffice.calibration import density
from suffice.calibration.likelihoods import LIKELIHOODS
from suffice.calibration.posterior import STRUCTURES
from suffice.cost import profile
from suffice.models.zoo import Pretrained, round_to_half
from suffice.prediction import Multilabel, Prediction
from suffice.variation.buckets import fit_buckets
from suffice.variation.fitting import fit_variation
from suffice.variation.teachers.dropout import MCDropout
from tests import builders

X = builders.inputs(64)
SCORES = ("confidence", "margin", "entropy", "aleatoric", "epistemic")
Model = Callable[[], nn.Module]
LINKS = ("sampled", "meanfield", "probit", "plugin")
OUTPUTS = {"classification": 4, "binary": 1, "multilabel": 3, "regression": 2, "heteroscedastic": 4}


@dataclass(frozen=True)
class Case:
    """A fitted object and its predictions.

    Attributes:
        made: Fitted object.
        network: Network that it is loaded with; None for a policy.
        answer: Function from a fitted or loaded object to its predictions, by name.
    """

    made: Any
    network: nn.Module | None
    answer: Callable[[Any], dict[str, Tensor]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():  # on so few examples, tuning ends at the edges of ranges and budgets are met poorly
        warnings.simplefilter("ignore")
        return make()


def targets(likelihood: str, outputs: int = 4) -> Tensor:
    if likelihood in ("classification", "binary"):
        return (X[:, 0] > 0).long()
    if likelihood == "multilabel":
        return (X > 0).long()
    numbers = X[:, :2] * X[:, 1:3] + 0.1 * builders.inputs(64, 2, seed=1)
    return numbers[:, :1] if outputs == 2 and likelihood == "heteroscedastic" else numbers


def answers(calibrated: Any, x: Tensor = X) -> dict[str, Tensor]:
    """Return all tensors that a calibrated network predicts for a batch, by name."""
    tensors = {}
    for k, prediction in enumerate(calibrated(x)):
        names = (
            ("log_probs", "aleatoric")
            if isinstance(prediction, (Prediction, Multilabel))
            else ("mean", "epistemic_variance", "variance")
        )
        tensors |= {f"{k}.{name}": getattr(prediction, name) for name in names}
    return tensors


def calibrated(
    likelihood: str = "classification", model: Callable[..., nn.Module] | None = None, **options: Any
) -> Case:
    network = builders.network(classes=OUTPUTS[likelihood], scale=0.5) if model is None else model()
    *_, last = network.parameters()
    x = X.to(last.dtype)
    loader = builders.batched(x, targets(likelihood, len(last)))
    options = {"samples": 4, "likelihood": likelihood, "generator": seeded()} | options
    made = quietly(lambda: suffice.calibrate(network, loader, loader, **options))
    return Case(made, network, partial(answers, x=x))


def plain() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4))


def updated() -> Case:
    case = calibrated()
    loader = builders.batched(X, targets("classification"))
    return Case(case.made.update(loader).with_temperature(2).with_prior(0.3), case.network, answers)


def wider() -> Case:
    case, network = calibrated(), builders.network(classes=6, scale=0.5)
    network.load_state_dict({**case.network.state_dict(), **_with_rows(network, case.network)})
    return Case(case.made.with_classes(network, generator=seeded()), network, answers)


def _with_rows(network: nn.Module, before: nn.Module) -> dict[str, Tensor]:
    old, rows = before.state_dict(), {}
    for name, value in network.state_dict().items():
        if "classifier" in name:
            rows[name] = torch.cat([old[name], value[len(old[name]) :]])
    return rows


def density_score(exit_: int = 1, model: Model | None = None) -> Case:
    network = builders.network(scale=0.5) if model is None else model()
    made = density.fit(network, builders.batched(X, targets("classification")), exit=exit_)
    return Case(made, network, lambda score: {"density": score(X)})


def is_covering(variant: str) -> bool:
    """Return whether a likelihood, structure and link belong to a quarter of them with each pair of two in it."""
    likelihood, structure, link = variant.split("-")
    if likelihood == "regression" or structure == "None":  # one structure has a posterior, one link has none
        return True
    others = [name for name in LIKELIHOODS if name != "regression"]
    return (others.index(likelihood) + list(STRUCTURES).index(structure) + LINKS.index(link)) % 4 == 0


@cache
def base(likelihood: str = "classification") -> Any:
    return calibrated(likelihood, temperature=False, tuning="evidence").made


def run_by(policy: Any, on: Any) -> dict[str, Tensor]:
    answer = suffice.run(on, policy, X)
    sets = {} if answer.set is None else {f"set.{name}": value for name, value in vars(answer.set).items()}
    finite = {
        name: value.double().nan_to_num(nan=torch.nan) for name, value in sets.items() if isinstance(value, Tensor)
    }
    return {"exit": answer.exit, "macs": answer.macs, "scores": answer.scores.nan_to_num(nan=-1.0), **finite}


def policy(likelihood: str = "classification", make: Callable[[Any], Any] | None = None, **options: Any) -> Case:
    on = base(likelihood)
    made = quietly(lambda: make(on) if make else suffice.allocate(on, [X], 0.6, **options))
    return Case(made, None, partial(run_by, on=on))


def promised(on: Any, confidence: float | None) -> Any:
    return suffice.control_risk(on, builders.batched(X, on(X)[-1].label), 0.3, confidence)


def agreeing(on: Any) -> Any:
    return suffice.control_risk(on, [X], 0.3, loss="agreement")


def with_sets(on: Any, **options: Any) -> Any:
    score = "variance" if on.likelihood.name == "regression" else "confidence"
    policy = suffice.allocate(on, [X], 0.6, score=score)
    labeled = builders.batched(X, targets(on.likelihood.name, on.network.num_classes))
    return suffice.conformalize(on, policy, labeled, 0.8, **options)


def timed(on: Any) -> Any:
    times = profile(on, X[:8], (1, 8), repeats=1)
    each = [times.per_example(torch.eye(3, dtype=torch.float64)[k]) for k in (0, 2)]
    return suffice.allocate(on, [X], sum(each) / 2, unit="ms", profile=times)


def with_dropout() -> nn.Module:
    stages = [nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.3), nn.Tanh()), nn.Sequential(nn.Linear(6, 5), nn.Tanh())]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exits = [suffice.Exit(nn.Identity(), nn.Linear(width, 4)) for width in (6, 5)]
        return suffice.ExitNetwork(stages, exits).eval()


def learned() -> Case:
    on = calibrated(model=with_dropout, structure=None).made
    teacher = MCDropout(passes=4)
    score = fit_exit_variation(on, [X], [-X], teacher=teacher, hidden=(4,), epochs=1, generator=seeded())
    return Case(quietly(lambda: suffice.allocate(on, [X], 0.8, score=score)), None, partial(run_by, on=on))


def estimator(model: Model = plain, likelihood: str = "classification", **options: Any) -> Case:
    network = model()
    options = {"hidden": (4,), "epochs": 1, "generator": seeded()} | options
    made = fit_variation(network, [X], [-X], teacher=MCDropout(passes=4, likelihood=likelihood), **options)
    return Case(made, network, lambda found: vars(found.estimate(X)))


def buckets(**options: Any) -> Case:
    network = plain()
    made = fit_buckets(network, [X], [-X], teacher=MCDropout(passes=4), epochs=1, generator=seeded(), **options)
    return Case(made, network, lambda found: dict(zip(("output", "probs"), found(X), strict=True)))


def shipped() -> Pretrained:
    """Return a network in the form in which networks are shipped, fitted to noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = round_to_half(suffice.models.msdnet("cifar-small", num_classes=3)).eval()
        x, y = torch.randn(24, 3, 32, 32), torch.randint(3, (24,))
    made = suffice.calibrate(network, [(x, y)], [(x, y)], generator=seeded())
    policy = suffice.allocate(made, [(x, y)], budget=0.5)
    return Pretrained(network, made, policy, ("a", "b", "c"), torch.full((3,), 0.5), torch.full((3,), 0.25), "#")


def _all_calibrated() -> dict[str, Callable[[], Case]]:
    quick: dict[str, Any] = {"tuning": "evidence", "temperature": False}
    makers: dict[str, Callable[[], Case]] = {}
    for likelihood in LIKELIHOODS:
        structures = ["kronecker", None] if likelihood == "regression" else [*STRUCTURES, None]
        for structure in structures:
            for link in LINKS if structure else ["plugin"]:
                options: dict[str, Any] = quick if structure else {}
                make = partial(calibrated, likelihood, structure=structure, link=link, **options)
                makers[f"{likelihood}-{structure}-{link}"] = make
    both: dict[str, Any] = {"ensemble": "product", "ensemble_weights": "tuned"}
    return makers | {
        "alone": partial(calibrated, ensemble=False),
        "product": partial(calibrated, **both),
        "grid": partial(calibrated, tuning="grid"),
        "factored": partial(calibrated, prior="factored"),
        "precisions": partial(calibrated, bias_precision=0.3, class_precision=torch.tensor([1.0, 2, 3, 0.1])),
        "no bias": partial(calibrated, model=partial(builders.network, bias=False)),
        "double": partial(calibrated, model=lambda: builders.network(scale=0.5).double()),
        "bfloat16": partial(calibrated, model=lambda: builders.network(scale=0.5).bfloat16()),
        "plain": partial(calibrated, model=plain),
        "one mean": partial(calibrated, "heteroscedastic", model=lambda: builders.network(classes=2)),
        "updated": updated,
        "wider": wider,
    }


MAKERS: dict[str, dict[str, Callable[[], Case]]] = {
    "calibrated": _all_calibrated(),
    "density": {
        "first": partial(density_score, 0),
        "last": partial(density_score, -1),
        "plain": partial(density_score, 0, plain),
    },
    "policy": {
        **{
            score: partial(policy, score=score)
            for score in ("confidence", "margin", "entropy", "aleatoric", "epistemic")
        },
        "mixed": partial(policy, score="patience"),
        "optimal": partial(policy, method="optimal"),
        "variance": partial(policy, "regression", score="variance"),
        "milliseconds": partial(policy, make=timed),
        "promise": partial(policy, make=partial(promised, confidence=0.9)),
        "sets": partial(policy, make=with_sets),
        "randomized sets": partial(policy, make=partial(with_sets, method="raps", randomized=True)),
        "sets over all exits": partial(policy, make=partial(with_sets, method="lac", by_exit=False)),
        "intervals": partial(policy, "regression", make=with_sets),
        "promise of agreement": partial(policy, make=agreeing),
        "promise in expectation": partial(policy, make=partial(promised, confidence=None)),
        "learned score": learned,
    },
    "variation-estimator": {
        "all layers": estimator,
        "auto": partial(estimator, layers="auto", epochs=2),
        "output alone": partial(estimator, layers=[], target="disagreement"),
        "ridge": partial(estimator, method="ridge"),
        "delta rule": partial(estimator, delta=True, strengths="both"),
        "margins": partial(estimator, layers=["<margins>", "1"]),
        "margins of a regression": partial(estimator, likelihood="regression", layers=["<margins>"]),
        "regression": partial(estimator, likelihood="regression"),
    },
    "buckets": {
        "values": buckets,
        "on": partial(buckets, strengths="on", share=0.2),
        "margins": partial(buckets, layers=["<margins>"]),
    },
}
"""Variants of each kind that `suffice.save` accepts."""

EVERY = [(kind, variant) for kind, variants in MAKERS.items() for variant in variants]


@cache
def case(kind: str, variant: str) -> Case:
    return MAKERS[kind][variant]()
