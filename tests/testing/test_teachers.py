from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

import suffice
from suffice import MCDropout, Variation
from suffice.testing import check_teacher
from tests import builders
from tests.robustness import kinds

X = builders.inputs(8)


def model(outputs=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, outputs))


class Wrong:
    """Teacher with one fault behind a right one."""

    def __init__(self, fault, passes=50):
        self.fault, self.passes, self.calls = fault, passes, 0

    def __call__(self, model, x, *, generator=None):
        self.calls += 1
        found = MCDropout(passes=self.passes)(model, x, generator=None if self.fault == "unseeded" else generator)
        spoiled = FAULTS[self.fault](found, self, model, x)
        return found if self.fault in EFFECTS else spoiled


def spreading(change):
    """Return a fault in the spread."""
    return lambda found, *_: replace(found, spreads={"std": change(found["std"])})


EFFECTS = {
    "writes": lambda found, teacher, model, x: x.add_(1),
    "trains": lambda found, teacher, model, x: model.train(),
    "steps": lambda found, teacher, model, x: model[0].weight.data.mul_(1.01),
    "hooks": lambda found, teacher, model, x: model[1].register_forward_hook(lambda *_: None),
    "gradients": lambda found, teacher, model, x: setattr(model[0].weight, "grad", torch.ones_like(model[0].weight)),
    "unseeded": lambda *_: None,
}
FAULTS = {
    **EFFECTS,
    "None": lambda *_: None,
    "a tensor": lambda found, *_: found["std"],
    "negative": spreading(lambda std: -std),
    "NaN": spreading(lambda std: std * torch.nan),
    "a column": spreading(lambda std: std[:, None]),
    "no spread": lambda found, *_: replace(found, spreads={}),
    "float32": lambda found, *_: replace(found, mean=found.mean.float()),
    "logits": lambda found, *_: replace(found, mean=3 * found.mean),
    "passes": lambda found, *_: replace(found, passes=0),
    "likelihood": lambda found, *_: replace(found, likelihood="softmax"),
    "too few rows": lambda found, *_: replace(found, mean=found.mean[1:], spreads={"std": found["std"][1:]}),
    "sorted rows": lambda found, *_: replace(found, mean=found.mean[found.mean[:, 0].argsort()]),
    "calls": lambda found, teacher, *_: replace(found, spreads={"std": found["std"] + teacher.calls}),
}


FORM = "returns a Variation"
RULES = {
    **dict.fromkeys(["None", "a tensor", "negative", "NaN", "float32", "a column", "no spread", "logits"], FORM),
    **dict.fromkeys(["passes", "likelihood", "too few rows"], FORM),
    "unseeded": "draws from the generator alone",
    "calls": "draws from the generator alone",
    "sorted rows": "rows belong to their examples",
    "writes": "leaves its inputs unchanged|draws from the generator alone",
    "trains": "leaves the model as it was",
    "steps": "leaves the model as it was|draws from the generator alone",
    "hooks": "leaves the model as it was",
    "gradients": "leaves the model as it was",
}


@pytest.mark.parametrize("fault", RULES)
def test_a_wrong_teacher_violates_a_named_rule(fault):
    with pytest.raises(AssertionError, match=rf"^rule ['\"]({RULES[fault]})['\"]: expected "):
        check_teacher(Wrong(fault), model().eval() if fault == "trains" else model(), X.clone())


def test_a_teacher_that_uses_the_default_generator_besides_violates_a_rule():
    class Restless(MCDropout):
        def __call__(self, model, x, *, generator=None):
            torch.rand(1)
            return super().__call__(model, x, generator=generator)

    with pytest.raises(AssertionError, match=r'^rule "leaves torch\'s default generator alone": expected no random'):
        check_teacher(Restless(passes=4), model(), X)


@pytest.mark.parametrize("teacher", [lambda model, x: None, lambda *_, **__: 1 / 0, 3])
def test_a_teacher_that_cannot_be_called_violates_a_rule(teacher):
    with pytest.raises(AssertionError, match=f"^rule '{FORM}': (Type|ZeroDivision)Error"):
        check_teacher(teacher, model(), X)


def test_a_deterministic_teacher_is_compared_up_to_rounding():
    def centered(model, x, *, generator=None):
        with torch.no_grad():
            logits = model.eval()(x).double()
        model.train()
        return Variation(logits - logits.mean(dim=0), {"std": logits.std(dim=1)}, 1, "regression")

    with pytest.raises(AssertionError, match="rule 'rows belong to their examples': expected the same mean"):
        check_teacher(centered, model(), X)

    def spread_of_the_batch(model, x, *, generator=None):
        found = centered(model, x)
        return replace(found, mean=torch.zeros_like(found.mean), spreads={"std": found["std"] * len(x)})

    with pytest.raises(AssertionError, match="expected the same spread 'std' for the examples without the first"):
        check_teacher(spread_of_the_batch, model(), X)


def test_a_number_of_passes_that_is_ignored_violates_a_rule():
    class Fixed(MCDropout):
        def with_passes(self, passes):
            return self

    with pytest.raises(AssertionError, match=r"rule 'has as many passes as chosen': expected 3 passes .* got 6"):
        check_teacher(Fixed(passes=6), model(), X)


SETTINGS = list(product([("classification", 4), ("binary", 1), ("regression", 2)], [2, 10, 200]))


@pytest.mark.parametrize(
    ("likelihood", "outputs", "passes"),
    [pytest.param(*output, n, marks=[pytest.mark.slow] if (output[1], n) != (1, 2) else []) for output, n in SETTINGS],
)
def test_dropout_teachers_pass(likelihood, outputs, passes):
    """Over many seeds, since a check by chance would fail sooner or later."""
    for seed in range(10):
        check_teacher(MCDropout(passes=passes, likelihood=likelihood), model(outputs), X, seed=seed)


def test_other_teachers_pass():
    check_teacher(suffice.EnsembleTeacher([model().eval(), model().eval(), builders.network()]), model(), X)
    on = kinds.base()
    check_teacher(suffice.LaplaceTeacher(on.logit_samples), on.network, X)


def test_too_few_examples_are_refused():
    with pytest.raises(ValueError, match="at least 2 different examples"):
        check_teacher(MCDropout(), model(), X[:1])
