"""State of a watcher in a file, so that an engine goes on where it was stopped: evidence, alarms and the step."""

import hashlib
import json
import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from suffice_runtime.bundle.entries import printable
from suffice_runtime.monitor import MeanBounds, ShareAlarm, StepBack, from_dict, to_dict
from suffice_runtime.policy import Policy
from suffice_runtime.saving import replace_file
from suffice_runtime.serving.evidence import Evidence
from suffice_runtime.serving.watch import Alarm
from suffice_runtime.serving.watcher import Watcher

VERSION = 1
"""Version of the files."""

SECONDS = 60.0
"""Seconds between two looks whether a state has changed."""

_LOG = logging.getLogger(__name__)


class StateFile:
    """File with the state of a watcher.

    Args:
        file: Path of the file, in a folder that exists.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """

    def __init__(self, file: Path) -> None:
        if not file.parent.is_dir():
            raise FileNotFoundError(f"expected a folder at {printable(file.parent, 200)} for the state; create it")
        self._file = file

    def restore(self, watcher: Watcher) -> None:
        """Let a new watcher go on with the state in the file, if there is one for its policies.

        Raises:
            ValueError: If the file is damaged.
        """
        if not self._file.exists():
            return
        try:
            data = json.loads(self._file.read_text(encoding="utf-8"))
            if data["version"] != VERSION:
                raise ValueError(f"expected version {VERSION}, got {data['version']!r}")
            if data["policies"] != digest(watcher.sequence):
                _LOG.warning("the state at %s is of other policies; a new one is started", printable(self._file, 200))
                return
            watcher.restore(_decoded(data["evidence"], len(watcher.policy.shares)), list(map(_alarm, data["alarms"])))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"expected the state of an engine at {printable(self._file, 200)}, got a damaged one: {error}; remove "
                "the file to start anew"
            ) from error

    def payload(self, watcher: Watcher) -> bytes:
        """Return the bytes of the file for the present state of a watcher."""
        data = {
            "version": VERSION,
            "policies": digest(watcher.sequence),
            "evidence": _encoded(watcher.evidence),
            "alarms": [asdict(alarm) for alarm in watcher.alarms],
        }
        return json.dumps(data, allow_nan=False).encode()

    def write(self, payload: bytes) -> bool:
        """Replace the file, whole or not at all, and return whether it was.

        An error is logged, as answers do not depend on it.
        """
        try:
            replace_file(self._file, payload)
        except OSError:
            _LOG.exception("the state at %s could not be written", printable(self._file, 200))
            return False
        return True


class Keeper:
    """Thread that saves a state from time to time, and a last time when it is closed.

    A state that could not be written, as on a full disk, is tried again at the next look.

    Args:
        file: The file.
        take: Function that returns the bytes of the state, or None if it has not changed.
        seconds: Seconds between two looks.
    """

    def __init__(self, file: StateFile, take: Callable[[], bytes | None], seconds: float = SECONDS) -> None:
        self._file, self._take, self._seconds = file, take, seconds
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="suffice-state", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Save the state if it has changed, and end the thread."""
        self._closing.set()
        self._thread.join()

    def _keep(self) -> None:
        closing, unsaved = False, b""
        while not closing:
            closing = self._closing.wait(self._seconds)
            unsaved = self._take() or unsaved
            if unsaved and self._file.write(unsaved):
                unsaved = b""


def digest(policies: Sequence[Policy]) -> str:
    """Return a hash of the answers that policies give."""
    found = hashlib.sha256()
    for policy in policies:
        second = None if policy.alternative is None else policy.alternative.tolist()
        rule = (policy.thresholds.tolist(), second, policy.portion, policy.shares.tolist())
        found.update(repr((rule, policy.score, policy.promise, policy.made_for)).encode())
    return found.hexdigest()


def _encoded(evidence: Evidence) -> dict[str, Any]:
    return {
        "bounds": to_dict(evidence.bounds),
        "shares": None if evidence.shares is None else to_dict(evidence.shares),
        "exits": evidence.exits.tolist(),
        "costs": list(evidence.costs),
        "epistemic": evidence.epistemic,
        "steps": None if evidence.steps is None else to_dict(evidence.steps),
    }


def _decoded(data: Mapping[str, Any], num_exits: int) -> Evidence:
    bounds = from_dict(data["bounds"])
    shares = None if data["shares"] is None else from_dict(data["shares"])
    steps = None if data["steps"] is None else from_dict(data["steps"])
    costs, priced = data["costs"]
    exits = np.array(data["exits"])
    if not (
        isinstance(bounds, MeanBounds)
        and isinstance(shares, ShareAlarm | None)
        and isinstance(steps, StepBack | None)
        and exits.shape == (num_exits,)
        and exits.dtype.kind == "i"
        and math.isfinite(costs + priced + data["epistemic"])
    ):
        raise ValueError("expected bounds, shares, exits and steps of this bundle")
    return Evidence(bounds, shares, exits, (float(costs), int(priced)), float(data["epistemic"]), steps)


def _alarm(data: Mapping[str, Any]) -> Alarm:
    alarm = Alarm(**data)
    whole = type(alarm.policy_version) is int and type(alarm.observations) is int
    if alarm.kind not in ("loss", "exits") or not whole or not math.isfinite(alarm.time):
        raise ValueError(f"expected alarms of losses or exits, with finite numbers, got {printable(data, 200)}")
    return alarm
