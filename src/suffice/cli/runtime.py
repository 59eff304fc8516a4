"""The commands `suffice run` and `suffice serve`, which are those of the runtime: PyTorch is not imported."""

from importlib.util import find_spec

import typer

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings by which arguments are left to the runtime."""


def run(context: typer.Context) -> None:
    """Answer the examples of a file by a bundle, as `suffice-runtime run` does.

    Arguments are those of `suffice-runtime run`, which is installed on its own: the folder of the bundle; --input, a
    .npy or .npz file; --output, .npz, .csv or .json; --batch-size, --threads and --force.

    Example: suffice run bundle --input images.npy --output answers.csv
    """
    _pass_on("run", context)


def serve(context: typer.Context) -> None:
    """Serve bundles in the Open Inference Protocol, as `suffice-runtime serve` does.

    Arguments are those of `suffice-runtime serve`, which is installed on its own, with its extra "serve": the folders
    of the bundles; --name, --host, --port, --workers, --threads, --token-file, --state and limits, which
    `suffice-runtime serve --help` lists.

    Example: suffice serve bundle --port 8000
    """
    _pass_on("serve", context)


def _pass_on(command: str, context: typer.Context) -> None:
    """Run a command of the runtime.

    Raises:
        ImportError: If the runtime is not installed.
    """
    if find_spec("suffice_runtime") is None:
        raise ImportError("expected the package suffice-runtime, found none; pip install ./runtime of this repository")
    from suffice_runtime.cli import main

    raise typer.Exit(main([command, *context.args]))
