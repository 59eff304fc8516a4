"""History of the models of a service, which grows while its application runs."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from suffice_runtime.http.service import Service
from suffice_runtime.serving import history
from suffice_runtime.serving.history import Point

_LOG = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def recorded(service: Service) -> AsyncIterator[None]:
    """Add a point to the history of every model now and then, until the end of the context."""
    task = asyncio.create_task(_record(service))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def add_points(service: Service) -> None:
    """Add the present state of every model to its history."""
    for engine in service.engines:
        service.histories[engine.name, engine.version].add(Point.of(engine.statistics(), engine.watch()))


async def _record(service: Service) -> None:
    """Add points, one per `history.SECONDS`."""
    while True:
        try:
            add_points(service)
        except Exception:  # answers do not depend on the history
            _LOG.exception("expected the state of all models for the history, got an error")
        await asyncio.sleep(history.SECONDS)
