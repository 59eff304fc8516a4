"""The pipeline that every family runs in PyTorch, in three jobs.

    exits           attach → train heads → calibrate → allocate → run → run_stream → save → load
    estimator       of the dropout variation, with default layers: fit → audit → save → load
    named layers    the same, with the strengths of a linear layer deep in the model

Loading happens in another process, for many families at once (`reload`). Checked on the way: the last exit and the
estimator's output equal the model bit for bit; answers are the same alone and with any companions, order and padding
that do not change the model's own answers.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import suffice
from suffice.attach.cutting.replay import Stage
from suffice.network import call
from suffice.training import train
from suffice.training.config import SGDConfig
from tests.builders import PAPER
from tests.gauntlet.family import CLASSES, Family, logits_of
from tests.gauntlet.independence import PROBABILITIES, Answers, Independence
from tests.gauntlet.inputs import Example
from tests.gauntlet.outcomes import Job, WrongAnswerError, is_refusal
from tests.tolerances import gamma

PASSES = 6


@dataclass(frozen=True)
class Data:
    """Data of a family: batches of texts of different lengths, as a loader pads them.

    Attributes:
        train: Labeled batches.
        validation: Labeled batches.
        tested: Examples to answer.
    """

    train: list[Any]
    validation: list[Any]
    tested: list[Example]

    @classmethod
    def of(cls, family: Family, model: nn.Module) -> "Data":
        """Draw the data of a family, the same in every process; labels are drawn from the model's own predictions."""
        train, validation = (_labeled(family, model, 24, seed) for seed in (1, 2))
        return cls(train, validation, family.inputs.examples(9, 3))


def _labeled(family: Family, model: nn.Module, count: int, seed: int, size: int = 8) -> list[Any]:
    examples, generator = family.inputs.examples(count, seed), torch.Generator().manual_seed(seed)
    batches = []
    for start in range(0, count, size):
        x = family.inputs.batch(examples[start : start + size])
        y = model_logits(model, x).softmax(dim=1).multinomial(1, generator=generator)[:, 0]
        batches.append((x, y) if isinstance(x, Tensor) else {**x, "labels": y})
    return batches


def bit_for_bit_batches(family: Family, tested: Sequence[Example]) -> dict[str, Any]:
    """Return the batches on which a network has to equal its model: of several sizes, and with several paddings."""
    batch, step = family.inputs.batch, len(family.inputs.lengths)
    batches = {
        "three of different lengths": batch(tested[:3]),
        "a single one": batch(tested[:1]),
        "two of one length": batch(tested[::step][:2]),
        "nine": batch(tested),
        "thirty others": batch(family.inputs.examples(30, seed=4)),
    }
    if family.inputs.padding:
        batches["padded by nine more"] = batch(tested[:4], right=9)
    return batches


def run_exits(family: Family, folder: Path, job: Job) -> None:
    """Run the job "exits", and save what the other process is to load."""
    model = family.model()
    data = Data.of(family, model)
    compared = bit_for_bit_batches(family, data.tested)
    with job.step("attach"):
        network = attach(family, model, data)
        job.rounded = selects(network)
        check_last_exit(network, model, compared)
    with job.check("attach to an example without padding"):
        unpadded = family.inputs.batch(data.tested[:: len(family.inputs.lengths)][:2])
        check_last_exit(suffice.attach_exits(model, family.at, example=unpadded), model, compared)
    for what, x in inputs_with_other_keys(model, unpadded).items():
        with job.check(f"attach, then inputs {what}"):
            check_keys(network, model, x)
    with job.step("train"):
        train(network, data.train, epochs=6, optimizer=SGDConfig(learning_rate=0.02))
        network.eval()
    with job.step("calibrate"):
        # 24 examples determine no weights; with the posterior, answers depend on the features too
        generator = torch.Generator().manual_seed(0)
        calibrated = suffice.calibrate(network, data.train, data.validation, generator=generator, **PAPER)
    with job.step("allocate"):
        first, *_, last = calibrated.costs.cumulative
        policy = suffice.allocate(calibrated, data.validation, budget=(first + last) / 2, unit="macs")
    check_exits(family, model, calibrated, policy, data, job)
    with job.step("save"):
        suffice.save(calibrated, folder / "calibrated")
        suffice.save(policy, folder / "policy")
        torch.save(network.exits[:-1].state_dict(), folder / "exits.pt")
        torch.save(exits_answers(family, calibrated, policy, data), folder / "answers.pt")


def check_exits(family: Family, model: nn.Module, calibrated: Any, policy: Any, data: Data, job: Job) -> None:
    """Check that the answers of a calibrated network depend on their example alone."""
    sharpening = max(1.0, 1 / min(float(exit_.temperature) for exit_ in calibrated.exits))
    independence = Independence(family, model, data.tested, calibrated.network, sharpening)

    def answers(answer: Any) -> Answers:
        near = ((answer.scores - policy.thresholds).abs() < PROBABILITIES).any(dim=1)
        return Answers(answer.probs, answer.exit, near)

    def stream(batches: list[Any]) -> list[Answers]:
        served = list(suffice.run_stream(calibrated, policy, batches, size=4, delay=2))
        errors = [error for one in served for error in one.errors]
        if errors:
            raise errors[0].__cause__ or errors[0]
        return [answers(one.answer) for one in served]

    with job.check("calibrated"):
        independence.check(lambda x: Answers(torch.cat([prediction.probs for prediction in calibrated(x)], dim=1)))
    with job.check("run"):
        independence.check(lambda x: answers(suffice.run(calibrated, policy, x)))
    with job.check("run_stream"):
        independence.check_stream(stream)


def run_estimator(family: Family, folder: Path, job: Job, named: bool = False) -> None:
    """Run the job "estimator" or "named layers", and save what the other process is to load."""
    model = family.model()
    data = Data.of(family, model)
    teacher = suffice.MCDropout(passes=PASSES, **family.dropout)
    generator = torch.Generator().manual_seed(0)
    loaders = [[_without_labels(batch) for batch in loader] for loader in (data.train, data.validation)]
    layers = [named_layer(family, model)] if named else None
    with job.step("fit_variation"):
        estimator = suffice.fit_variation(
            model, *loaders, teacher=teacher, layers=layers, epochs=30, generator=generator
        )
    job.rounded = any(isinstance(module, nn.TransformerEncoderLayer) for module in model.modules())
    with job.check("estimator"):
        for what, x in bit_for_bit_batches(family, data.tested).items():
            output, expected = logits_of(estimator.estimate(x).output), model_logits(model, x)
            rounding = 4 * _distance_from_float64(model, x, expected) if job.rounded else 0.0
            _check_equal(output, expected, f"the estimator's output, for {what}", rounding)
    with job.check("estimator's variation"):
        independence = Independence(family, model, data.tested)
        independence.check(lambda x: Answers(estimator.estimate(x).variation[:, None].log()))
    with job.check("audit"):
        audit = estimator.audit(family.inputs.batch(data.tested), passes=PASSES, generator=generator)
        if audit.rows != len(data.tested):
            raise WrongAnswerError(f"expected an audit of {len(data.tested)} rows, got {audit.rows}")
    with job.step("save"):
        suffice.save(estimator, folder / "estimator")
        torch.save(estimator_answers(family, estimator, data), folder / "answers.pt")


def attach(family: Family, model: nn.Module, data: Data) -> Any:
    """Attach exits, with an example of different lengths."""
    return suffice.attach_exits(model, family.at, example=family.inputs.batch(data.tested[:4]), num_classes=CLASSES)


def selects(network: Any) -> bool:
    """Return whether a network's model selects positions from the output of its classifier."""
    modules = network.modules() if isinstance(network, nn.Module) else ()
    return any(isinstance(module, Stage) and module.plan.selects for module in modules)


@torch.no_grad()
def check_last_exit(network: Any, model: nn.Module, batches: Mapping[str, Any]) -> None:
    """Raise a WrongAnswerError unless the last exit equals the model; both run without gradients.

    It does bit for bit; if the model selects positions, up to the rounding of one product of the same rows.
    """
    for what, x in batches.items():
        rounding = _rounding(network, x) if selects(network) else 0.0
        _check_equal(network(x)[-1], model_logits(model, x), f"the last exit, for {what}", rounding)


def _rounding(network: Any, x: Any) -> float:
    """Return a bound on the difference of two products of φ with the classifier, in different orders of summation."""
    state = x
    for k in range(len(network.exits)):
        state, phi = network.advance(k, state)
    classifier = network.exits[-1].classifier
    magnitude = nn.functional.linear(phi.abs(), classifier.weight.abs())
    magnitude = magnitude if classifier.bias is None else magnitude + classifier.bias.abs()
    return 2 * gamma(classifier.in_features + 1, phi.dtype) * float(magnitude.max())


@torch.no_grad()
def check_keys(network: nn.Module, model: nn.Module, x: Any) -> None:
    """Check a batch with other keys than the example: it is refused, or taken as the model takes it."""
    try:
        got = network(x)[-1]
    except Exception as error:
        if not is_refusal(error):
            raise
    else:
        _check_equal(got, model_logits(model, x), "the last exit", _rounding(network, x) if selects(network) else 0.0)


def inputs_with_other_keys(model: nn.Module, x: Any) -> dict[str, Any]:
    """Return a batch of texts without its attention mask, and with what else the model takes."""
    if not isinstance(x, dict) or "input_ids" not in x:
        return {}
    tokens, arguments = x["input_ids"], inspect.signature(model.forward).parameters
    others = {"token_type_ids": tokens % 2, "position_ids": torch.arange(tokens.shape[1]).flip(0).expand(tokens.shape)}
    batches = {f"with {key}": {**x, key: value} for key, value in others.items() if key in arguments}
    if "attention_mask" in x:
        batches["without an attention mask"] = {"input_ids": tokens}
    return batches


@torch.no_grad()
def model_logits(model: nn.Module, x: Any) -> Tensor:
    """Return the logits of the model itself."""
    return logits_of(call(model, x))


def _distance_from_float64(model: nn.Module, x: Any, logits: Tensor) -> float:
    """Return how far logits are from those of the model in float64, for layers that have a fused and a plain path."""
    wide = {name: _widened(value) for name, value in x.items()} if isinstance(x, dict) else _widened(x)
    return float((model_logits(copy.deepcopy(model).double(), wide) - logits).abs().max())


def _widened(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def exits_answers(family: Family, calibrated: Any, policy: Any, data: Data) -> dict[str, Tensor]:
    """Return what a loaded network has to answer too, to the byte."""
    x = family.inputs.batch(data.tested)
    answer = suffice.run(calibrated, policy, x)
    probs = torch.stack([prediction.probs for prediction in calibrated(x)])
    return {"calibrated": probs, "run": answer.probs, "exit": answer.exit, "macs": answer.macs}


def estimator_answers(family: Family, estimator: Any, data: Data) -> dict[str, Tensor]:
    """Return what a loaded estimator has to answer too, to the byte."""
    estimate = estimator.estimate(family.inputs.batch(data.tested))
    return {"output": logits_of(estimate.output), "variation": estimate.variation}


def _without_labels(batch: Any) -> Any:
    return {k: v for k, v in batch.items() if k != "labels"} if isinstance(batch, dict) else batch[0]


def _check_equal(got: Tensor, expected: Tensor, what: str, rounding: float = 0.0) -> None:
    if not torch.equal(got, expected) and (
        got.shape != expected.shape or not float((got - expected).abs().max()) <= rounding
    ):
        difference = float((got - expected).abs().max()) if got.shape == expected.shape else tuple(got.shape)
        raise WrongAnswerError(f"expected {what}, to equal the model bit for bit, got a difference of {difference}")


def named_layer(family: Family, model: nn.Module) -> str:
    """Return the name of a layer whose output has every position: the family's own, or one in the last cut's module."""
    if family.layer:
        return family.layer
    around = model.get_submodule(family.at[-1])
    inside = [name for name, module in around.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv1d))]
    return f"{family.at[-1]}.{inside[0]}".removesuffix(".") if inside else family.at[-1]
