"""The command `suffice run`: the answers of a bundle to the examples of a file."""

import typer


def command(context: typer.Context) -> None:
    """Answer the examples of a file by a bundle, as `suffice-runtime run` does.

    Arguments are those of `suffice-runtime run`, which is installed on its own: the folder of the bundle; --input, a
    .npy or .npz file; --output, .npz, .csv or .json; --batch-size, --threads and --force.

    Example: suffice run bundle --input images.npy --output answers.csv
    """
    from suffice.deploy import parity

    parity.check_packages()
    from suffice_runtime.cli import main

    raise typer.Exit(main(["run", *context.args]))
