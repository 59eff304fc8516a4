"""Parameters of requests: budget, deadline and cap."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.codec.tensors import shown
from suffice_runtime.policy import Policy
from suffice_runtime.serving.engine import Engine

KNOWN = {
    "budget": "Mean multiply-adds per example as a fraction of the full network's, in (0, 1]",
    "deadline_ms": "Milliseconds after which every example is answered by the last exit that it passed",
    "timeout": "The same in microseconds, as clients of Triton send it",
    "cap_exit": "Number of the exit, from 0, at which every example stops at the latest",
}
"""Parameters and their meaning."""

_MOST = 1e15


@dataclass(frozen=True)
class Terms:
    """Parameters of a request as an engine takes them.

    Attributes:
        policy: Policy of the request, or None for the one in force.
        deadline_ms: Milliseconds until the deadline, or None.
        cap_exit: Exit at which every example stops at the latest, or None.
    """

    policy: Policy | None = None
    deadline_ms: float | None = None
    cap_exit: int | None = None


def read(parameters: Mapping[str, Any], engine: Engine) -> Terms:
    """Return the terms of a request.

    Raises:
        ProtocolError: For parameters that are not known, or out of range.
    """
    for name in parameters:
        if name not in KNOWN:
            raise ProtocolError(f"expected parameters among {', '.join(KNOWN)}, got {shown(name)}; leave it out")
    budget, cap = _number(parameters, "budget"), parameters.get("cap_exit")
    if cap is not None and type(cap) is not int:
        raise ProtocolError(f"expected cap_exit as the number of an exit, got {shown(cap)}; correct it")
    return Terms(None if budget is None else _policy(engine, budget), _deadline(parameters), cap)


def _policy(engine: Engine, budget: float) -> Policy:
    """Return the policy for a budget."""
    try:
        return engine.policy_for(budget)
    except ValueError as error:
        raise ProtocolError(str(error)) from None


def _deadline(parameters: Mapping[str, Any]) -> float | None:
    """Return the milliseconds until the deadline of a request."""
    milliseconds, microseconds = _number(parameters, "deadline_ms"), _number(parameters, "timeout")
    if milliseconds is not None and microseconds is not None:
        raise ProtocolError("expected one of deadline_ms and timeout, got both; leave one out")
    return milliseconds if microseconds is None else microseconds / 1000


def _number(parameters: Mapping[str, Any], name: str) -> float | None:
    """Return a parameter that is a number above 0, if it is there."""
    value = parameters.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < _MOST:
        raise ProtocolError(f"expected {name} as a number above 0, got {shown(value)}; correct it")
    return float(value)
