"""State of a model as a document: its statistics, what is watched, its policies, and the history of these."""

from dataclasses import asdict
from typing import Any

from suffice_runtime.http.entries import entries_of, plain
from suffice_runtime.http.service import Service
from suffice_runtime.policy import Policy
from suffice_runtime.serving.engine import Engine
from suffice_runtime.serving.history import History, Point, Rates

RECENT_SECONDS = 60.0
"""Seconds that recent rates are of, where the history reaches back so far."""

RATES = ("requests_per_second", "examples_per_second", "refused", "median_seconds", "p99_seconds")
"""Fields of the rates between a point of the history and the one before it."""

WATCHED = ("policy_version", "step", "audited", "loss", "bound", "e_value", "e_limit", "exits_e_value", "exits_e_limit")
"""Fields of the points of the history."""


def of(service: Service, engine: Engine, since: float, most: int) -> dict[str, Any]:
    """Return the state of a model.

    Args:
        service: Service that the model is in.
        engine: Engine of the model.
        since: Time in seconds since 1970 after which points of the history are returned.
        most: Number of these points at most.
    """
    counts, watch = engine.statistics(), engine.watch()
    history, present = service.histories[engine.name, engine.version], Point.of(counts, watch)
    before = history.before(present.seconds - RECENT_SECONDS) or present
    policies = engine.manifest.policies
    return {
        "name": engine.name,
        "version": engine.version,
        "latest": service.models.versions(engine.name)[-1] == engine.version,
        "ready": engine.ready,
        "time": present.time,
        "kind": None if engine.manifest.kind is None else engine.manifest.kind.kind,
        "token": service.token is not None,
        "statistics": asdict(counts),
        "recent": plain(asdict(Rates.between(before, present))),
        "watch": asdict(watch),
        "policy": {
            "version": watch.policy_version,
            "index": _place(engine.policy, policies),
            "fraction": engine.manifest.fraction(engine.policy),
            "policy": entries_of(engine.policy),
        },
        "policies": [{"fraction": engine.manifest.fraction(each), "policy": entries_of(each)} for each in policies],
        "history": columns(history, since, most),
    }


def columns(history: History, since: float, most: int) -> dict[str, Any]:
    """Return the points of a history after a time, as one list for each field.

    Rates are those since the point before, also if this is not among the returned ones.
    """
    points = history.points(since, most + 1)
    shown = points[1:] if points and (points[0].time <= since or len(points) > most) else points
    found: dict[str, list[Any]] = {name: [] for name in ("time", *WATCHED, "cost", *RATES)}
    for before, point in zip([*points[:1], *shown], shown, strict=False):
        rates = Rates.between(before, point)
        for name in ("time", *WATCHED, "cost"):
            found[name].append(getattr(point, name))
        for name in RATES:
            found[name].append(plain(getattr(rates, name)))
    return found


def _place(policy: Policy, policies: tuple[Policy, ...]) -> int | None:
    """Return the place of a policy among others, or None if it is another one."""
    mine = {**entries_of(policy), "made_for": None}
    return next((i for i, each in enumerate(policies) if {**entries_of(each), "made_for": None} == mine), None)
