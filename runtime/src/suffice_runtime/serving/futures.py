"""Futures of requests, of threads and of event loops, and how they get their outcomes."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from suffice_runtime.scheduling.requests import Outcome

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Awaited:
    """Future of an event loop, which only the thread of that loop may touch.

    Attributes:
        loop: The event loop.
        future: Its future.
    """

    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Outcome]"


Receiver = Future[Outcome] | Awaited
"""What gets the outcome of a request."""

Delivery = tuple[Receiver, Outcome | BaseException]
"""Receiver with its outcome, or the error that stopped its engine."""


def deliver(deliveries: Sequence[Delivery]) -> None:
    """Resolve futures, up to those that were cancelled; each event loop is woken once.

    Errors of callbacks are logged, so that they keep no other future from its outcome.
    """
    loops = dict[asyncio.AbstractEventLoop, list[tuple["asyncio.Future[Outcome]", Outcome | BaseException]]]()
    for receiver, outcome in deliveries:
        if isinstance(receiver, Awaited):
            loops.setdefault(receiver.loop, []).append((receiver.future, outcome))
            continue
        try:
            if receiver.set_running_or_notify_cancel():
                _resolve(receiver, outcome)
        except BaseException:
            _LOG.exception("a callback of a future raised an error")
    for loop, awaited in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve_awaited, awaited)
        except RuntimeError:  # the loop is closed, and nothing waits for its futures
            _LOG.warning("an event loop was closed before %d of its requests were answered", len(awaited))


def _resolve_awaited(awaited: Sequence[tuple["asyncio.Future[Outcome]", Outcome | BaseException]]) -> None:
    """Resolve futures in the thread of their event loop."""
    for future, outcome in awaited:
        if not future.done():
            _resolve(future, outcome)


def _resolve(future: "Future[Outcome] | asyncio.Future[Outcome]", outcome: Outcome | BaseException) -> None:
    if isinstance(outcome, Outcome):
        future.set_result(outcome)
        return
    error = RuntimeError(f"expected an answer, got an engine that stopped: {outcome!r}")
    error.__cause__ = outcome
    future.set_exception(error)
