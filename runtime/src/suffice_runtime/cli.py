"""Command of the runtime: run a bundle on a file of inputs, describe it, or serve it.

Exit status 0 after success, 1 after an error, 2 for arguments that are not understood.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from suffice_runtime import reading, saving, summary
from suffice_runtime._version import __version__
from suffice_runtime.answer import Answer
from suffice_runtime.estimate import Estimate, warning
from suffice_runtime.http import command as serving
from suffice_runtime.reading import Inputs
from suffice_runtime.runner import Runner
from suffice_runtime.running.stream import Served
from suffice_runtime.triton import repository

Array = NDArray[Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: Arguments of the command line; those of the process by default.
    """
    choices = _parser().parse_args(arguments)
    try:
        choices.command(choices)
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="suffice-runtime", description="Run networks that suffice exported.")
    parser.add_argument("--version", action="version", version=f"suffice-runtime {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    run = commands.add_parser(
        "run",
        help="answer the examples of a file",
        epilog="example: suffice-runtime run bundle --input images.npy --output answers.csv",
    )
    run.add_argument("bundle", type=Path, help="folder that suffice.export wrote")
    run.add_argument(
        "--input",
        required=True,
        type=_path_ending(reading.INPUTS),
        help="arrays of numpy.save or numpy.savez, or a .txt with a text in each line",
    )
    run.add_argument(
        "--output", required=True, type=_path_ending(tuple(saving.WRITERS)), help="file to write: .npz, .csv or .json"
    )
    run.add_argument("--batch-size", type=_whole, default=64, help="examples on which a graph runs (default: 64)")
    run.add_argument("--force", action="store_true", help="replace the output if it is there")
    run.set_defaults(command=_run)
    info = commands.add_parser("info", help="describe a bundle", epilog="example: suffice-runtime info bundle")
    info.add_argument("bundle", type=Path, help="folder that suffice.export wrote")
    info.set_defaults(command=_info)
    triton = commands.add_parser(
        "triton",
        help="write the graphs of a bundle as models of Triton Inference Server",
        epilog="example: suffice-runtime triton bundle models --name digits",
    )
    triton.add_argument("bundle", type=Path, help="folder that suffice.export wrote")
    triton.add_argument("repository", type=Path, help="folder of the model repository")
    triton.add_argument("--name", required=True, help="name of the models, before -stage-0, …")
    triton.add_argument(
        "--max-batch-size", type=_whole, default=64, help="examples that the server runs together (default: 64)"
    )
    triton.set_defaults(command=_triton)
    serving.add(commands, _whole)
    for command in (run, info):
        command.add_argument("--threads", type=_whole, default=1, help="threads of an operator (default: 1)")
    return parser


def _path_ending(endings: Sequence[str]) -> Callable[[str], Path]:
    """Return a function that reads a path with one of some endings."""

    def path(text: str) -> Path:
        if Path(text).suffix.lower() not in endings:
            raise argparse.ArgumentTypeError(f"expected a file ending in {' or '.join(endings)}, got {text!r}")
        return Path(text)

    return path


def _whole(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _run(choices: argparse.Namespace) -> None:
    """Answer the examples of a file."""
    saving.check_writable(choices.output, choices.force)
    runner = Runner(choices.bundle, choices.threads)
    x, manifest = reading.read(choices.input), runner.manifest
    parts = list[dict[str, Array]]()
    if manifest.kind is not None:
        parts = [saving.columns(answer) for answer in _answers(runner, x, choices.batch_size)]
    if manifest.estimator is not None:
        estimates = _estimates(runner, x, choices.batch_size)
        found = [saving.estimate_columns(estimate) for estimate in estimates]
        if manifest.kind is None:
            parts = [saving.output_columns(estimate) for estimate in estimates]
        parts = [{**part, **more} for part, more in zip(parts, found, strict=True)]
        if message := warning([part["distance"] for part in parts]):
            print(f"warning: {message}", file=sys.stderr)
    saving.write(choices.output, parts, manifest.class_names, choices.force)


def _info(choices: argparse.Namespace) -> None:
    """Print the description of a bundle, all of whose files were checked."""
    print(summary.text(choices.bundle, Runner(choices.bundle, choices.threads).manifest))


def _triton(choices: argparse.Namespace) -> None:
    """Write a model repository, and print the names of the models."""
    print(*repository.write(choices.bundle, choices.repository, choices.name, choices.max_batch_size), sep="\n")


def _answers(runner: Runner, x: Inputs, size: int) -> list[Answer]:
    """Return the answers of all examples, batch by batch.

    Raises:
        TypeError: If an input is of another type than the graphs take.
        ValueError: If an example cannot be answered; the message names its row.
    """
    if not reading.count(x):
        return [runner.run(x)]
    return [_complete(served) for served in runner.run_stream(reading.batches(runner, x, size), size=size)]


def _estimates(runner: Runner, x: Inputs, size: int) -> list[Estimate]:
    """Return the estimates of all examples, batch by batch, without warnings; errors are those of `_answers`."""
    batches = reading.batches(runner, x, size) if reading.count(x) else [x]
    return [runner._network.estimate(batch, i * size) for i, batch in enumerate(batches)]


def _complete(served: Served) -> Answer:
    """Return the answer of a batch, or raise the error of its first example that failed."""
    for error in served.errors:
        raise ValueError(str(error.__cause__)) from error
    assert served.answer is not None
    return served.answer


if __name__ == "__main__":
    sys.exit(main())
