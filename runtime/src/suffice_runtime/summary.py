"""Description of a bundle in lines of 80 columns."""

import math
import textwrap
from pathlib import Path

from suffice_runtime.bundle.entries import printable
from suffice_runtime.bundle.estimator import EstimatorFile
from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.policy import Policy

WIDTH = 80
"""Greatest number of characters in a line."""

_INDENT = 14


def text(folder: Path, manifest: Manifest) -> str:
    """Return the description of a bundle: what it takes and returns, its policy, and a table of its exits."""
    lines = [
        _entry("bundle", printable(folder, 200)),
        *_predictions(manifest),
        *(_entry("inputs" if i == 0 else "", str(tensor)) for i, tensor in enumerate(manifest.inputs)),
    ]
    if manifest.padding is not None:
        lines.append(_entry("padding", f"tokens count where {printable(manifest.padding)} is not 0"))
    if manifest.tokenizer is not None:
        longest = manifest.tokenizer.longest
        upto = "" if longest is None else f", of at most {longest:,} tokens"
        lines.append(_entry("tokenizer", f"texts are inputs too{upto}"))
    if manifest.preprocessing is not None:
        lines.append(_entry("preprocessing", printable(manifest.preprocessing, 400)))
    if manifest.kind is not None:
        lines += _policy(manifest.policy)
        lines += _other_policies(manifest)
    lines += _estimator(manifest.estimator)
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items() if name != "suffice")
    written = f"suffice {manifest.library}, opset {manifest.opset}" + (f"; {versions}" if versions else "")
    lines.append(_entry("written by", printable(written, 400)))
    return "\n".join([*lines, *(["", *_exits(manifest)] if manifest.stages else [])])


def _entry(name: str, value: str) -> str:
    """Return a name and its value, wrapped."""
    return textwrap.fill(
        value, WIDTH, initial_indent=f"{name:<{_INDENT}}", subsequent_indent=" " * _INDENT, break_on_hyphens=False
    )


def _predictions(manifest: Manifest) -> list[str]:
    """Return the lines about the predictions and their ensemble, or the model's output for an estimator alone."""
    kind = "output" if manifest.kind is None else manifest.kind.kind
    names = "" if manifest.class_names is None else f": {printable(', '.join(manifest.class_names), 400)}"
    likelihood = "" if manifest.likelihood == kind else f" ({printable(manifest.likelihood)})"
    if manifest.kind is None:
        return [_entry("model", f"{kind}{likelihood}{names}")]
    ensemble = "none" if manifest.ensemble == "false" else f"{manifest.ensemble} of the exits up to each"
    return [_entry("predictions", f"{kind}{likelihood}{names}"), _entry("ensemble", ensemble)]


def _estimator(estimator: EstimatorFile | None) -> list[str]:
    """Return the lines about an estimator."""
    if estimator is None:
        return []
    source = "" if estimator.teacher is None else f" that {printable(estimator.teacher)} measures"
    quality = "" if math.isnan(estimator.r_squared) else f"; R² {estimator.r_squared:.3f} on held-out data"
    size = _size(estimator.graph.bytes)
    return [_entry("estimator", f"{estimator.graph.file}, {size}: {printable(estimator.target)}{source}{quality}")]


def _policy(policy: Policy | None) -> list[str]:
    """Return the lines about a policy."""
    if policy is None:
        return [_entry("policy", "none; predictions of every exit only")]
    promise = policy.promise
    if promise is None:
        goal = f"budget of {policy.budget:,.6g} {policy.unit} per example"
    else:
        sure = "in expectation" if promise.confidence is None else f"with confidence {promise.confidence:g}"
        goal = f"loss ({promise.loss}) of at most {promise.max_loss:g} {sure}"
    lines = [_entry("policy", f"{goal}; {policy.expected:,.6g} {policy.unit} on validation data")]
    if policy.alternative is not None:
        lines.append(_entry("", f"second thresholds for {policy.portion:.1%} of the examples"))
    if policy.sets is not None:
        rule, among = policy.sets, "at each exit" if policy.sets.by_exit else "over all exits"
        lines.append(_entry("sets", f"{rule.method}, with a coverage of {rule.coverage:g} {among}"))
    return lines


def _other_policies(manifest: Manifest) -> list[str]:
    """Return the line about the policies that a service may use in place of the policy."""
    if len(manifest.policies) < 2:
        return []
    costs = ", ".join(f"{manifest.fraction(policy):.0%}" for policy in manifest.policies)
    return [_entry("policies", f"{len(manifest.policies)}, at {costs} of the multiply-adds of all stages")]


def _scale(score: str) -> str:
    """Return a score with its scale, if that is not the one of the answers."""
    return "log-odds" if score == "confidence" else score


def _exits(manifest: Manifest) -> list[str]:
    """Return a table with one line for each exit."""
    policy = manifest.policy
    heading = f"{'exit':>4}  {'graph':>10}  {'multiply-adds':>22}"
    if policy is not None:
        heading += f"  {'stops':>7}  where {printable(_scale(policy.score), 16)} is at least"
    lines = [heading]
    for k, (stage, macs) in enumerate(zip(manifest.stages, manifest.costs.macs, strict=True)):
        line = f"{k:>4}  {_size(stage.bytes):>10}  {macs:>22,}"
        if policy is not None:
            line += f"  {policy.shares[k]:>7.1%}  {_rule(policy, k)}"
        lines.append(line.rstrip())
    if manifest.costs.length is not None:
        also = "other lengths are known too" if manifest.costs.lengths else "those of other lengths are not known"
        lines.append(f"Multiply-adds are for {manifest.costs.length:,} tokens; {also}.")
    return lines


def _rule(policy: Policy, k: int) -> str:
    """Return the threshold of an exit, and the second one of a mixed policy."""
    if k == len(policy.thresholds):
        return "(all others)"
    first = _number(policy.thresholds[k])
    return first if policy.alternative is None else f"{first} or {_number(policy.alternative[k])}"


def _number(value: float) -> str:
    return f"{value:.5g}" if math.isfinite(value) else ("∞" if value > 0 else "−∞")


def _size(count: int) -> str:
    """Return a number of bytes in a unit that people read."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
