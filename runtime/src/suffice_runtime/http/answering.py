"""Answers of an engine to requests whose clients may leave, and the error of one of which some examples failed."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.estimate import Estimate
from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.codec.tensors import shown
from suffice_runtime.http.errors import GoneError, RequestError
from suffice_runtime.http.outputs import ESTIMATED
from suffice_runtime.http.parameters import Terms
from suffice_runtime.http.service import Service, service_of
from suffice_runtime.http.transport import bodies
from suffice_runtime.runner import Runner
from suffice_runtime.running import inputs
from suffice_runtime.scheduling.requests import DeadlineError, Outcome
from suffice_runtime.serving.engine import Engine

Array = NDArray[Any]
Result = TypeVar("Result")

_SHOWN = 10
"""Number of positions that a message names."""


async def answer(request: Request, engine: Engine, x: Mapping[str, Array], terms: Terms, seconds: float) -> Outcome:
    """Return the outcome of a request, all of whose examples were answered.

    Args:
        request: Request whose body was read.
        engine: Engine of the model.
        x: Inputs by name.
        terms: Parameters.
        seconds: Seconds in which it must be answered.

    Raises:
        GoneError: If the client leaves; the request is cancelled.
        ProtocolError: If inputs or parameters are not those of the model.
        RefusedError: If the engine has no room, or closes.
        RequestError: If examples failed, or time is over.
    """
    check_names(x, engine.manifest)
    host = None if request.client is None else request.client.host
    stages = getattr(request.state, "span", None)
    outcome = await _while_connected(request, _answer(engine, x, terms, host, stages is not None), seconds)
    if stages is not None:
        stages.add(outcome, engine.zero_ns())
    if outcome.errors:
        raise _failed(outcome, x, engine.manifest)
    return outcome


async def estimate(request: Request, engine: Engine, x: Mapping[str, Array], seconds: float) -> dict[str, Array]:
    """Return the outputs of the variation estimator for inputs that were answered.

    Args:
        request: Request whose body was read.
        engine: Engine of a model with an estimator.
        x: Inputs by name.
        seconds: Seconds in which they must be computed.

    Raises:
        GoneError: If the client leaves.
        RequestError: If the estimator fails, or time is over.
    """
    service = service_of(request)
    runner, size = service.estimator(engine), service.options.sizes[-1]
    assert runner is not None
    return await _while_connected(request, _estimate(service, runner, x, size), seconds)


async def _while_connected(request: Request, work: Coroutine[Any, Any, Result], seconds: float) -> Result:
    """Return the result of some work, which is cancelled if the client leaves, or time is over."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(bodies.left(request.receive))
    try:
        done, _ = await asyncio.wait((working, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working in done:
            return working.result()
        if gone in done:
            raise GoneError
        raise RequestError(504, f"expected an answer within {seconds:g} s, got none; send less, or a deadline_ms")
    finally:
        working.cancel()
        gone.cancel()


async def _estimate(service: Service, runner: Runner, x: Mapping[str, Array], size: int) -> dict[str, Array]:
    """Return the outputs of the estimator, which runs on so many examples at once as graphs do."""
    loop, found = asyncio.get_running_loop(), list[Estimate]()
    rows = len(next(iter(x.values())))
    for start in range(0, max(rows, 1), size):
        part = {name: array[start : start + size] for name, array in x.items()}
        try:
            found.append(await loop.run_in_executor(service.threads, runner._network.estimate, part, start))
        except ValueError as error:
            raise RequestError(500, str(error)) from error
    return {name: np.concatenate([getattr(one, name) for one in found]) for name in ESTIMATED}


def check_names(x: Mapping[str, Array], manifest: Manifest) -> None:
    """Raise a ProtocolError unless inputs have the names of those of a model, all of them and no others."""
    names = [tensor.name for tensor in manifest.inputs]
    missing, unknown = [name for name in names if name not in x], [name for name in x if name not in names]
    if missing or unknown:
        remedy = f"add {shown(missing[0])}" if missing else f"leave out {shown(unknown[0])}"
        raise ProtocolError(f"expected the inputs {names}, got {', '.join(map(shown, list(x)[:_SHOWN]))}; {remedy}")


async def _answer(engine: Engine, x: Mapping[str, Array], terms: Terms, host: str | None, traced: bool) -> Outcome:
    """Return the outcome of a request, whose errors are those of the protocol."""
    try:
        return await engine.answer(
            x, policy=terms.policy, deadline_ms=terms.deadline_ms, cap_exit=terms.cap_exit, client=host, traced=traced
        )
    except (TypeError, ValueError) as error:
        raise ProtocolError(str(error)) from error


def _failed(outcome: Outcome, x: Mapping[str, Array], manifest: Manifest) -> RequestError:
    """Return the error of a request of which some examples failed; the protocol has no answer for the others alone."""
    errors = outcome.errors
    bad = [error for error in errors if _is_bad(x, manifest, error.position)]
    late = [error for error in errors if isinstance(error.__cause__, DeadlineError)]
    status, first = (400, bad[0]) if bad else (504, late[0]) if len(late) == len(errors) else (500, errors[0])
    places = _listed([error.position for error in errors])
    return RequestError(
        status,
        f"expected answers for all {outcome.ticket.examples:,} examples, got none for {len(errors):,}, at "
        f"{places}: {first.__cause__}",
    )


def _listed(positions: Sequence[int]) -> str:
    """Return positions as a message names them."""
    more = f" and {len(positions) - _SHOWN:,} more" if len(positions) > _SHOWN else ""
    plural = "s" if len(positions) > 1 else ""
    return f"position{plural} {', '.join(map(str, positions[:_SHOWN]))}{more}"


def _is_bad(x: Mapping[str, Array], manifest: Manifest, position: int) -> bool:
    """Return whether an example is not finite, or out of range, which its sender can repair."""
    row = slice(position, position + 1)
    arrays = inputs.prepare({name: array[row] for name, array in x.items()}, manifest)
    try:
        inputs.check_finite(arrays, manifest, np.array([position]))
    except ValueError:
        return True
    return False
