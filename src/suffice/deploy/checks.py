"""Refusals before anything is computed or written: packages, arguments, the network and its example."""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from suffice.budget import scores as scoring
from suffice.budget.exit_variation import VariationScore
from suffice.budget.scores import AnyScore
from suffice.calibration.calibrated import Calibrated
from suffice.inputs import prepare
from suffice.network import ExitNetwork, State, batch_size
from suffice.storage.reading import check_depth
from suffice.twin.kinds import is_compiled
from suffice.utils import arguments
from suffice.utils.text import brief

OPSETS = range(18, 24)
"""Versions of the ONNX operators that torch can export to."""

_TORCH = (2, 13)
"""Least version of torch whose exporter was tested."""

_LARGEST = 2**31
"""Size in bytes that a graph in one file has to be below."""


ONNX = ("onnx", "onnxscript")
"""Packages of the extra "export" that write ONNX graphs."""


def packages(*names: str) -> None:
    """Raise an ImportError unless packages of the extra "export" are installed, and torch is new enough."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ImportError(f"expected {' and '.join(missing)} to export, found none; pip install 'suffice[export]'")
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < _TORCH:
        raise ImportError(
            f"expected PyTorch {'.'.join(map(str, _TORCH))} or later to export, got {torch.__version__}; save with "
            "suffice.save, and export where a newer one is installed"
        )


def compiler() -> None:
    """Raise a RuntimeError unless torch finds a C++ compiler."""
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise RuntimeError(
            "expected a C++ compiler for format='inductor', found none; install g++ or clang++, or set the environment "
            "variable CXX to one, or pass format='torch', which needs none"
        ) from error


def operators(opset: int) -> int:
    """Return the version of the ONNX operators as an int, if torch can export to it.

    Raises:
        TypeError: For another type.
        ValueError: For an unknown version.
    """
    opset = arguments.whole("opset", opset)
    if opset not in OPSETS:
        raise ValueError(f"expected an opset from {OPSETS[0]} to {OPSETS[-1]}, got {opset}; omit it for 20")
    return opset


def score_name(score: str | AnyScore) -> str:
    """Return the name of a score in a manifest.

    Raises:
        ValueError: For a function of the user, whose mathematics is not known.
    """
    if isinstance(score, str):
        return score
    if isinstance(score, VariationScore):
        return "variation"
    name = next((name for name, function in scoring.SCORES.items() if function is score), None)
    if name is None:
        raise ValueError(
            f"expected a score by name, one of {sorted(scoring.SCORES)}, or the result of fit_exit_variation, got a "
            "function, which cannot be exported; allocate with one of those"
        )
    return name


def num_outputs(calibrated: Calibrated) -> int:
    """Return the number of classes, labels or means of a prediction."""
    likelihood = calibrated.likelihood
    return 2 if likelihood.name == "binary" else likelihood.latents(calibrated.num_classes)


def network(network: ExitNetwork) -> None:
    """Check that the modules, the types and the size of a network can be exported.

    Raises:
        TypeError: For a compiled or scripted module, or weights that are not float32.
        ValueError: For a stage that is too large for one file.
    """
    modules(network)
    for k, stage in enumerate(network.stages):
        size(f"stage {k}", [stage, network.exit(k)], "attach more exits, so that stages are smaller")


def modules(model: nn.Module) -> None:
    """Check that the modules and the types of a model can be exported.

    Raises:
        TypeError: For a compiled or scripted module, or weights that are not float32.
    """
    for name, module in model.named_modules():
        if is_compiled(module):
            raise TypeError(
                f"expected modules in Python, got a compiled or scripted one at {name!r}; save the calibration or the "
                "estimator, and load it with the network as it was before: suffice.load(path, network=…)"
            )
    for name, parameter in model.named_parameters():
        if (parameter.is_floating_point() or parameter.is_complex()) and parameter.dtype != torch.float32:
            raise TypeError(
                f"expected a network in float32, got {parameter.dtype} at {name!r}; call network.float(), and "
                "calibrate it, or fit the estimator, again"
            )


def size(what: str, parts: Sequence[nn.Module], remedy: str) -> None:
    """Raise a ValueError if the weights of modules are too large for one graph."""
    tensors = {id(tensor): tensor for part in parts for tensor in part.state_dict().values()}
    total = sum(tensor.nbytes for tensor in tensors.values() if isinstance(tensor, Tensor))
    if total >= _LARGEST:
        raise ValueError(
            f"expected weights of less than {_LARGEST / 1e9:.1f} GB in each graph, got {total / 1e9:.1f} GB in {what}; "
            f"{remedy}"
        )


def example_batch(what: str, model: nn.Module, run: Callable[[State], object], example: object) -> State:
    """Return an example as a model takes it.

    Args:
        what: Name of what takes it, for messages.
        model: Model that sets the device and the floating type.
        run: Function of the example, which may raise anything.
        example: Example as it was passed.

    Raises:
        TypeError: If it holds no tensor.
        ValueError: If it has no rows, or the model does not take it.
    """
    x = prepare(example, model)
    if not batch_size(x):
        raise ValueError("expected an example of one row or more, got none; pass a batch of inputs")
    try:
        run(x)
    except Exception as error:  # the network of the user may raise anything
        notes = "; ".join(getattr(error, "__notes__", ()))
        reason = brief(str(error).partition("\n")[0], 200)
        raise ValueError(
            f"expected an example that {what} takes, got {type(error).__name__}: {reason}{'; ' if notes else ''}{notes}"
        ) from error
    return x


def class_names(names: object, outputs: int) -> None:
    """Check the names of outputs.

    Raises:
        TypeError: For anything but a sequence of strings.
        ValueError: For names that cannot be printed, or are not one for each output.
    """
    if names is None:
        return
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(
            f"expected class_names as a sequence of strings, got {arguments.shown(names)}; pass a list with one string "
            "for each output"
        )
    others = [name for name in names if not isinstance(name, str)]
    if others:
        raise TypeError(f"expected class_names of strings, got {arguments.shown(others[0])}; pass str(name) for each")
    if len(names) != outputs:
        raise ValueError(f"expected {outputs} class_names, one for each output, got {len(names)}")
    unreadable = [name for name in names if not name.strip() or not name.isprintable()]
    if unreadable:
        raise ValueError(f"expected class_names of printable characters, got {brief(unreadable[0])!r}; rename it")


def description(preprocessing: object) -> None:
    """Raise a TypeError unless a description of the preprocessing is one that JSON can hold."""
    if preprocessing is None:
        return
    if not isinstance(preprocessing, Mapping):
        raise TypeError(f"expected preprocessing as a mapping, got {arguments.shown(preprocessing)}")
    try:
        check_depth([json.loads(json.dumps(dict(preprocessing), allow_nan=False))])
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"expected preprocessing that JSON can hold, got {error}; pass numbers, strings and lists"
        ) from error
    if not _has_string_keys(preprocessing):
        raise TypeError("expected preprocessing with strings as keys, got another key, which JSON would replace")


def _has_string_keys(value: object) -> bool:
    """Return whether all keys of mappings in a nest are strings; JSON silently converts numbers."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value) and all(map(_has_string_keys, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_has_string_keys, value))
