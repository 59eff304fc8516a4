"""Model card of a bundle: what it predicts, from which inputs, under which policy, and what it costs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_PREDICTS = {
    "classification": "the probability of each class",
    "multilabel": "the probability of each label",
    "regression": "a mean and a variance of each output",
}


def text(manifest: Mapping[str, Any]) -> str:
    """Return the card for the entries of a manifest, in Markdown."""
    names, hashes = manifest["class_names"], manifest["hashes"]
    calibration = "" if hashes["calibrated"] is None else f", calibration {hashes['calibrated'][:12]}"
    lines = [
        "# Model card",
        "",
        _subject(manifest),
        "",
        "| input | type | shape |",
        "| --- | --- | --- |",
        *(f"| {_escaped(each['name'])} | {each['dtype']} | {_shape(each['shape'])} |" for each in manifest["inputs"]),
        "",
        *_exits(manifest),
        *([f"Classes: {', '.join(map(_escaped, names))}.", ""] if names else []),
        *_estimator(manifest.get("estimator")),
        *_quantization(manifest["quantization"]),
        f"Network {hashes['network'][:12]}{calibration}. {_files(manifest)}",
    ]
    return "\n".join(lines) + "\n"


def _escaped(name: str) -> str:
    """Return a name with a backslash before each character that means something in Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>()#|!&~])", r"\\\1", " ".join(name.split()))


def _files(manifest: Mapping[str, Any]) -> str:
    """Return what the files are, in one sentence."""
    torch, device = manifest["versions"]["torch"], manifest["device"]
    if manifest["graph_format"] == "onnx":
        return f"Operators of ONNX version {manifest['opset']}, exported with torch {torch}."
    if manifest["graph_format"] == "torch":
        return f"Programs of torch.export for the device {device!r}, saved by torch {torch}: torch.export.load."
    return (
        f"Packages of AOTInductor for the device {device!r}, compiled by torch {torch} for the processor of that "
        "machine: torch._inductor.aoti_load_package."
    )


def _subject(manifest: Mapping[str, Any]) -> str:
    """Return what is in the bundle, in one sentence."""
    what = f"({manifest['outputs']} outputs, likelihood {manifest['likelihood']!r})"
    if manifest["kind"] == "estimator":
        return f"A model {what} with an estimate of its variation, exported by suffice {manifest['suffice']}."
    return (
        f"A network with {manifest['exits']} exits that predicts {_PREDICTS[manifest['kind']]} {what}, calibrated and "
        f"exported by suffice {manifest['suffice']}."
    )


def _exits(manifest: Mapping[str, Any]) -> list[str]:
    """Return the table of the exits and the paragraph about the policy; nothing for an estimator alone."""
    if not manifest["exits"]:
        return []
    return [
        "| exit | graph | megabytes | multiply-adds up to it | stops where | validation data that stops |",
        "| ---: | --- | ---: | ---: | --- | ---: |",
        *(_exit(manifest, k, macs) for k, macs in enumerate(manifest["costs"]["macs"])),
        "",
        *_policy(manifest["policy"]),
        *_other_policies(manifest["policies"]),
    ]


def _estimator(estimator: Mapping[str, Any] | None) -> list[str]:
    """Return the paragraph about the estimator."""
    if estimator is None:
        return []
    teacher, r_squared = estimator["teacher"], estimator["quality"]["r_squared"]
    source = "a teacher" if teacher is None else teacher["name"]
    known = "unknown" if r_squared is None else f"{r_squared:.3f}"
    return [
        f"{estimator['file']} ({estimator['bytes'] / 1e6:.2f} megabytes) estimates the spread {estimator['target']!r} "
        f"that {source} measures, from one pass; R² {known} on held-out data. Estimates are unreliable for inputs at a "
        "distance above 1, which are outside those of fitting.",
        "",
    ]


def _shape(shape: list[int | str]) -> str:
    return " × ".join(map(str, shape))


def _exit(manifest: Mapping[str, Any], k: int, macs: int) -> str:
    stage, policy = manifest["stages"][k], manifest["policy"]
    rule, share = "", ""
    if policy is not None:
        rule = f"score from {policy['thresholds'][k]}" if k < manifest["exits"] - 1 else "everything left"
        share = f"{policy['shares'][k]:.1%}"
    return f"| {k} | {stage['file']} | {stage['bytes'] / 1e6:.2f} | {macs:,} | {rule} | {share} |"


def _policy(policy: Mapping[str, Any] | None) -> list[str]:
    """Return the paragraph about the policy."""
    if policy is None:
        return ["There is no policy: every exit is computed.", ""]
    unit = "multiply-adds" if policy["unit"] == "macs" else "milliseconds"
    parts = [
        f"An example stops at the first exit whose score {policy['score']!r} reaches its threshold; "
        f"{policy['expected']:,.4g} {unit} per example were expected on the validation data."
    ]
    if policy["alternative"] is not None:
        parts.append(f"{policy['portion']:.1%} of the inputs have other thresholds, {policy['alternative']}.")
    if policy["promise"] is not None:
        promise = policy["promise"]
        held = "in expectation" if promise["confidence"] is None else f"with probability {promise['confidence']:g}"
        parts.append(
            f"The loss {promise['loss']!r} relative to the last exit is at most {promise['max_loss']:g}, {held}."
        )
    if policy["sets"] is not None:
        parts.append(f"Prediction sets ({policy['sets']['method']}) have a coverage of {policy['sets']['coverage']:g}.")
    return [" ".join(parts), ""]


def _other_policies(policies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the sentence about the policies that a service may use in place of the policy."""
    if not policies:
        return []
    costs = ", ".join(f"{each['expected']:,.4g}" for each in sorted(policies, key=lambda each: each["expected"]))
    return [f"Other policies are at hand, with an expected cost of {costs} per example.", ""]


def _quantization(quantization: Mapping[str, Any] | None) -> list[str]:
    """Return the paragraph about the quantization."""
    if quantization is None:
        return []
    fitted = "temperatures and prior precisions" if quantization["refit_posterior"] else "temperatures"
    return [
        f"Stages and features compute in 8-bit integers, with scales from {quantization['examples']:,} examples; "
        f"classifiers and predictions in float32. "
        + (
            f"The {fitted} were fitted to the quantized network."
            if quantization["refit"]
            else "The temperatures are those of the network in float32."
        ),
        "",
    ]
