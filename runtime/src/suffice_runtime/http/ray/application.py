"""Application of Ray Serve, from the options of `suffice-runtime serve`.

On one machine `suffice-runtime serve BUNDLE --ray --replicas 2` starts Ray and the application. On a cluster `build` is
the import path of a configuration, whose arguments are the same options by their names without dashes in front:

    applications:
      - name: digits
        import_path: suffice_runtime.http.ray.application:build
        args: {bundle: /models/digits, max-batch: 32, token-file: /run/secrets/token}
"""

import argparse
import contextlib
import io
import json
import logging
import logging.config
import signal
import threading
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve

from suffice_runtime.bundle import manifest
from suffice_runtime.bundle.entries import printable
from suffice_runtime.http import command
from suffice_runtime.http.ray import replica
from suffice_runtime.http.routes import policies
from suffice_runtime.http.transport import logs, tokens
from suffice_runtime.http.transport.limits import Limits

NAME = "suffice"
"""Name of the application and of its deployment."""

CHECK_SECONDS = 10.0
"""Seconds between two looks whether a replica is healthy, and in which it must state that."""

_OF_THE_PROXY = ("host", "port")
"""Options that are those of Ray's proxy."""


def build(arguments: Mapping[str, Any]) -> Any:
    """Return the application for options of `suffice-runtime serve`, as Ray Serve calls it.

    Args:
        arguments: Options by name, such as {"bundle": "digits", "max-batch": 32}; a list for one that repeats.

    Raises:
        OSError: If a bundle, the token or the policy cannot be read.
        ValueError: If an option is not known, or does not fit.
    """
    line = ["serve", *_listed(arguments.get("bundle")), "--ray"]
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        if name in _OF_THE_PROXY:
            raise ValueError(f"expected options of a deployment, got {name}; set it in http_options")
        if value is True:
            line.append(flag)
        elif name != "bundle" and value is not False:
            for each in _listed(value):
                line += [flag, str(each)]
    return deployment(parse(line)).bind()


def parse(line: list[str]) -> argparse.Namespace:
    """Return the options of a command line.

    Raises:
        ValueError: If they are not understood.
    """
    from suffice_runtime import cli

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return cli._parser().parse_args(line)
    except SystemExit:
        raise ValueError(errors.getvalue().strip().rpartition("error: ")[2]) from None


def deployment(choices: argparse.Namespace) -> Any:
    """Return the deployment for options.

    Each replica reserves as many CPUs as it has threads. A bundle and a file with a token are read by every replica,
    so they must be at the same place on all nodes.

    Raises:
        OSError: If a bundle, the token or the policy cannot be read.
        ValueError: If options do not fit.
    """
    if choices.state is not None:
        raise ValueError("expected no --state with --ray, as replicas have no names that last; leave it out")
    least = choices.replicas or 1
    if choices.max_replicas is not None and choices.max_replicas < least:
        raise ValueError(f"expected --max-replicas of at least {least}, got {choices.max_replicas}")
    choices.bundle = [bundle.resolve() for bundle in choices.bundle]
    keys = command.named(choices.bundle, choices.name)
    found = {key: manifest.read(bundle) for key, bundle in zip(keys, choices.bundle, strict=True)}
    placed = replica.Placed(choices, tokens.read(choices.token_file) is not None)
    scaled: dict[str, Any] = {"num_replicas": least}
    if choices.max_replicas is not None:
        at_once = max(1, choices.max_requests // 8)
        between = {"min_replicas": least, "max_replicas": choices.max_replicas, "target_ongoing_requests": at_once}
        scaled = {"autoscaling_config": between}
    return serve.deployment(
        serve.ingress(placed.create)(replica.Replica),
        name=NAME,
        ray_actor_options={"num_cpus": choices.workers * choices.threads},
        max_ongoing_requests=choices.max_requests,
        max_queued_requests=choices.max_requests,
        health_check_period_s=CHECK_SECONDS,
        health_check_timeout_s=CHECK_SECONDS,
        graceful_shutdown_timeout_s=float(Limits.close_seconds),
        user_config=_user_config(choices, found),
        **scaled,
    )


def run(choices: argparse.Namespace) -> None:
    """Serve bundles by replicas on this machine until a signal ends it.

    Raises:
        OSError: If a bundle, the token or the policy cannot be read.
        ValueError: If options do not fit, or the machine has too few CPUs.
    """
    ended = threading.Event()
    application = deployment(choices)
    logging.config.dictConfig(logs.configuration())
    ray.init(address="local", include_dashboard=False)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        _check_room(choices)
        serve.start(http_options={"host": choices.host, "port": choices.port})
        serve.run(application.bind(), name=NAME)
        logs.log(logging.INFO, "served", host=choices.host, port=choices.port, replicas=choices.replicas or 1)
        ended.wait()
    finally:
        serve.shutdown()
        ray.shutdown()
    logs.log(logging.INFO, "ended")


def _check_room(choices: argparse.Namespace) -> None:
    """Raise an error if the replicas need more CPUs than there are, as they would never start."""
    most = choices.max_replicas or choices.replicas or 1
    needed, cpus = most * choices.workers * choices.threads, round(ray.cluster_resources().get("CPU", 0))
    if needed > cpus:
        raise ValueError(
            f"expected at most {cpus} CPUs for {most} replicas, got {needed} of --workers and --threads; lower one"
        )


def _user_config(choices: argparse.Namespace, found: Mapping[tuple[str, str], manifest.Manifest]) -> dict[str, Any]:
    """Return the configuration that replicas follow, with the policy of a file, if there is one, which fits."""
    if choices.policy is None:
        return {"policies": {}}
    if len(found) > 1:
        raise ValueError(f"expected one bundle with --policy, got {len(found)}; set user_config in place of it")
    ((key, description),) = found.items()
    try:
        entries = json.loads(choices.policy.read_text(encoding="utf-8"))
        policies.read(entries, description)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"expected a policy in {printable(choices.policy, 200)}: {error}") from error
    return {"policies": {replica.path(*key): entries}}


def _listed(value: Any) -> list[Any]:
    """Return a value as a list: itself, no value as an empty one, and another one alone."""
    if value is None:
        return []
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
