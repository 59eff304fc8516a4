"""Command that serves bundles; what needs the extra `serve` is imported when it runs."""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from suffice_runtime.bundle.entries import printable
from suffice_runtime.runner import Runner

if TYPE_CHECKING:
    from suffice_runtime.http.service import Service

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
"""Packages of the extra."""

RESERVED = ("stats",)
"""Names that no model can have, as paths of the protocol have them."""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", whole: Callable[[str], int]) -> None:
    """Add the command to a command line.

    Args:
        commands: Commands of the parser.
        whole: Function that reads a whole number of at least 1.
    """
    parser = commands.add_parser(
        "serve",
        allow_abbrev=False,  # --token would be read as --token-file, and the token be shown as a name of a file
        help="serve bundles in the Open Inference Protocol",
        epilog="example: suffice-runtime serve digits --port 8000 --token-file token",
    )
    parser.add_argument("bundle", type=Path, nargs="+", help="folder that suffice.export wrote")
    parser.add_argument(
        "--name", action="append", help="name of the model of each bundle (default: that of the folder)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=_port, default=8000, help="port to listen on; 0 for a free one (default: 8000)")
    parser.add_argument("--workers", type=whole, default=1, help="graphs of a model that run at once (default: 1)")
    parser.add_argument("--threads", type=whole, default=1, help="threads of an operator (default: 1)")
    parser.add_argument("--max-batch", type=whole, default=64, help="examples that a graph runs on (default: 64)")
    parser.add_argument("--max-rows", type=whole, default=4096, help="examples not yet answered (default: 4096)")
    parser.add_argument("--max-requests", type=whole, default=256, help="requests at once (default: 256)")
    parser.add_argument("--max-body-mb", type=whole, default=64, help="megabytes of a body (default: 64)")
    parser.add_argument("--max-wait-ms", type=_milliseconds, default=10.0, help="wait for others (default: 10)")
    parser.add_argument("--audit-share", type=_share, default=0.01, help="requests that are audited (default: 0.01)")
    parser.add_argument("--track", action="store_true", help="keep the cost of the policy when inputs drift")
    parser.add_argument("--state", type=Path, help="folder that keeps what is watched over a restart (default: none)")
    parser.add_argument("--token-file", type=Path, help="file with the token; SUFFICE_RUNTIME_TOKEN without it")
    parser.add_argument("--trace", action="store_true", help="send spans of OpenTelemetry, as OTEL_… state")
    parser.add_argument("--ray", action="store_true", help="serve by replicas of Ray Serve on this machine")
    parser.add_argument("--replicas", type=whole, help="number of replicas, or the least one; with --ray (default: 1)")
    parser.add_argument("--max-replicas", type=whole, help="number of replicas under load; with --ray (default: none)")
    parser.add_argument("--policy", type=Path, help="JSON of a policy for all replicas of one bundle; with --ray")
    parser.set_defaults(command=serve)


def serve(choices: argparse.Namespace) -> None:
    """Serve bundles until a signal ends it.

    Raises:
        ImportError: If the extra is not installed.
        OSError: If a bundle or the token cannot be read, or the address is taken.
        ValueError: If a bundle cannot be served, or options do not fit.
    """
    check_installed(NEEDED, "serve")
    if choices.ray:
        check_installed(("ray",), "ray")
        from suffice_runtime.http.ray import application

        application.run(choices)
        return
    for name in ("replicas", "max_replicas", "policy"):
        if getattr(choices, name) is not None:
            raise ValueError(f"expected --{name.replace('_', '-')} with --ray, got it without; add --ray")
    from suffice_runtime.http import run

    run.run(service(choices), choices.host, choices.port)


def service(choices: argparse.Namespace) -> "Service":
    """Return the service that options describe, with the engines of its bundles started.

    Raises:
        OSError: If a bundle or the token cannot be read.
        ValueError: If a bundle cannot be served, or options do not fit.
    """
    from suffice_runtime.http.service import Service
    from suffice_runtime.http.transport import tokens
    from suffice_runtime.http.transport.limits import Limits
    from suffice_runtime.scheduling.options import Options
    from suffice_runtime.serving.engine import Engine
    from suffice_runtime.serving.models import Models

    tracer = None
    if choices.trace:
        check_installed(("opentelemetry", "opentelemetry.sdk"), "otel")
        from suffice_runtime.http import tracing

        tracer = tracing.from_environment()
    token, keys = tokens.read(choices.token_file), named(choices.bundle, choices.name)
    runners = {key: Runner(bundle, choices.threads) for key, bundle in zip(keys, choices.bundle, strict=True)}
    options = Options(sizes=sizes(choices.max_batch), max_rows=choices.max_rows, wait_ms=choices.max_wait_ms)
    engines = [
        Engine(
            runner,
            options,
            name=name,
            version=version,
            workers=choices.workers,
            audit_share=choices.audit_share,
            track=choices.track,
            state=None if choices.state is None else choices.state / f"{name}-{version}.json",
        )
        for (name, version), runner in runners.items()
    ]
    size = choices.max_body_mb << 20
    limits = Limits(
        body_bytes=size,
        held_bytes=max(Limits.held_bytes, 2 * size),
        requests=choices.max_requests,
        connections=max(Limits.connections, 2 * choices.max_requests),
    )
    estimators = {key: runner for key, runner in runners.items() if runner.manifest.estimator is not None}
    return Service(Models(engines), limits, options, token, estimators, is_replica=choices.ray, tracer=tracer)


def check_installed(packages: Sequence[str], extra: str) -> None:
    """Raise an ImportError if a package of an extra is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise ImportError(f"expected the package {package}, found none; pip install 'suffice-runtime[{extra}]'")


def named(bundles: list[Path], names: list[str] | None) -> list[tuple[str, str]]:
    """Return name and version of the model of each bundle; a name that repeats has the versions 1, 2, ….

    Raises:
        ValueError: For another number of names, or names that cannot be those of models.
    """
    from suffice_runtime.triton.repository import NAME

    names = names or [bundle.resolve().name for bundle in bundles]
    if len(names) != len(bundles):
        raise ValueError(f"expected a --name for each of {len(bundles)} bundles, got {len(names)}; add or remove some")
    found, seen = list[tuple[str, str]](), Counter[str]()
    for name in names:
        if not NAME.fullmatch(name) or name in RESERVED:
            raise ValueError(
                f"expected a name of letters, digits, '-', '_' and '.', not {' or '.join(RESERVED)}, got "
                f"{printable(name)}; pass --name"
            )
        seen[name] += 1
        found.append((name, str(seen[name])))
    return found


def sizes(most: int) -> tuple[int, ...]:
    """Return the sizes of batches that are measured apart: powers of two up to the greatest size, and this."""
    return (*(1 << i for i in range(most.bit_length()) if 1 << i < most), most)


def _port(text: str) -> int:
    """Read the number of a port."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port of 0 to 65535, got {text!r}")
    return int(text)


def _milliseconds(text: str) -> float:
    """Read a time of at least 0."""
    return _number(text, float("inf"), "milliseconds of at least 0")


def _share(text: str) -> float:
    """Read a fraction."""
    return _number(text, 1.0, "a fraction in [0, 1]")


def _number(text: str, most: float, expected: str) -> float:
    """Read a finite number of at least 0 and at most `most`."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most or value == float("inf"):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value
