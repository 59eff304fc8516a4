"""Replica of the service: an application with engines of its own, which Ray Serve starts, checks and ends."""

import argparse
import logging
import logging.config
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from ray import serve
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from suffice_runtime.http import app, command
from suffice_runtime.http.ray.publishing import Publisher
from suffice_runtime.http.routes import policies
from suffice_runtime.http.service import Service
from suffice_runtime.http.transport import logs
from suffice_runtime.policy import Policy

HEADER = "x-suffice-replica"
"""Header of every response with the id of the replica, which its numbers are of."""


class Replica:
    """What Ray Serve calls besides the application.

    The policies of the deployment are those of `user_config`: {"policies": {"NAME/VERSION": entries of a manifest}}.
    A model that is not among them has the policy of its bundle. A policy that did not change stays as it is, with its
    evidence and the steps back that it has made.
    """

    app: FastAPI
    """Application, which Ray Serve sets before any method is called."""

    def __init__(self) -> None:
        self._applied = dict[str, Any]()

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Put the policies of a configuration in force, all or none.

        Raises:
            ValueError: If the configuration has other entries, or a policy is not one for its model.
        """
        wanted = config.get("policies")
        if set(config) != {"policies"} or not isinstance(wanted, Mapping):
            raise ValueError(f'expected {{"policies": {{"NAME/VERSION": …}}}} in user_config, got {list(config)}')
        engines = {path(engine.name, engine.version): engine for engine in self._service.engines}
        if unknown := set(wanted) - set(engines):
            raise ValueError(f"expected policies of {sorted(engines)}, got one of {min(unknown)}; correct it")
        changed = dict[str, Policy]()
        for name, engine in engines.items():
            entries = wanted.get(name)
            if entries != self._applied.get(name):
                own = engine.manifest.policy
                assert own is not None
                changed[name] = own if entries is None else policies.read(dict(entries), engine.manifest)
        for name, policy in changed.items():
            engines[name].policy = policy
        self._applied = dict(wanted)

    def check_health(self) -> None:
        """Raise a RuntimeError if an engine has stopped, so that the replica is replaced."""
        for engine in self._service.engines:
            if not engine.ready:
                raise RuntimeError(f"expected engines that run, got {path(engine.name, engine.version)} stopped")

    @property
    def _service(self) -> Service:
        service: Service = self.app.state.service
        return service


@dataclass(frozen=True)
class Placed:
    """Options of a deployment, which are sent to its replicas.

    Attributes:
        choices: Options of the command.
        has_token: Whether there is a token, which is not sent.
    """

    choices: argparse.Namespace
    has_token: bool

    @property
    def create(self) -> Any:
        """Function without arguments that returns the application of a replica, in its process."""
        choices, has_token = self.choices, self.has_token

        def create() -> FastAPI:
            return started(choices, has_token)

        return create


def started(choices: argparse.Namespace, has_token: bool) -> FastAPI:
    """Return the application of a replica, whose engines have started.

    Raises:
        OSError: If a bundle or the token cannot be read.
        ValueError: If there is no token on this node, and there was one where the application was built.
    """
    logging.config.dictConfig(logs.configuration())
    service = command.service(choices)
    if has_token and service.token is None:
        raise ValueError("expected the token on the node of every replica, found none; set --token-file")
    found = app.create(service)
    context = serve.get_replica_context()
    found.add_middleware(Stamp, replica=context.replica_tag)
    Publisher(service).start()
    return found


class Stamp:
    """Application around another one, whose responses state the replica.

    Args:
        app: Application.
        replica: Id of the replica.
    """

    def __init__(self, app: ASGIApp, replica: str) -> None:
        self._app, self._replica = app, replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message.setdefault("headers", []))[HEADER] = self._replica
            await send(message)

        await self._app(scope, receive, stamped)


def path(name: str, version: str) -> str:
    """Return the name and the version of a model as `user_config` has them."""
    return f"{name}/{version}"
