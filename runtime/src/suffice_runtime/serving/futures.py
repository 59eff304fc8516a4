"""Futures of requests, and how they get their outcomes."""

import logging
from collections.abc import Sequence
from concurrent.futures import Future

from suffice_runtime.scheduling.requests import Outcome

Answered = tuple["Future[Outcome]", Outcome]

_LOG = logging.getLogger(__name__)


def deliver(answered: Sequence[tuple["Future[Outcome]", Outcome | BaseException]]) -> None:
    """Resolve futures, up to those that were cancelled, by outcomes or the error that stopped their engine.

    Errors of their callbacks are logged, so that they keep no other future from its outcome.
    """
    for future, outcome in answered:
        try:
            if not future.set_running_or_notify_cancel():
                continue
            if isinstance(outcome, Outcome):
                future.set_result(outcome)
            else:
                error = RuntimeError(f"expected an answer, got an engine that stopped: {outcome!r}")
                error.__cause__ = outcome
                future.set_exception(error)
        except BaseException:
            _LOG.exception("a callback of a future raised an error")
