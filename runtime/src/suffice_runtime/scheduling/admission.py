"""Admission of requests: checks of what they carry, and refusals where there is no room."""

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from suffice_runtime.policy import Policy
from suffice_runtime.running.network import Network
from suffice_runtime.running.walk import Finished, InFlight
from suffice_runtime.scheduling.book import Book
from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.requests import RefusedError, Request, Ticket
from suffice_runtime.scheduling.rules import lengths
from suffice_runtime.scheduling.rules.fairness import Order

SOON, LATEST = 1.0, 60.0
"""Seconds after which to try again, if no example has left yet, and at most."""


@dataclass(frozen=True)
class Terms:
    """Parameters of one request; see `Scheduler.submit`."""

    policy: Policy | None = None
    deadline_ms: float | None = None
    cap_exit: int | None = None
    client: str | None = None
    traced: bool = False


class Admission:
    """Checks of new requests.

    Args:
        network: Network of a bundle with a policy.
        options: Sizes and limits.
        book: Open requests.

    Attributes:
        closed: Whether all requests are refused.
        order: Fair order of the examples.

    Raises:
        ValueError: If the bundle has no policy, or the cap is no exit of it.
    """

    def __init__(self, network: Network, options: Options, book: Book) -> None:
        if network.manifest.policy is None:
            raise ValueError("expected a bundle with a policy, got one without; export with policy=…")
        self.closed, self.order = False, Order()
        self._network, self._options, self._book = network, options, book
        self._own = self._policy = network.manifest.policy
        self._accepted = 0
        self._cap = self._exit(options.cap_exit, len(network.graphs) - 1)

    @property
    def policy(self) -> Policy:
        """Policy of requests that come without one."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = self._checked(policy)

    def admit(self, x: Any, now: float, terms: Terms) -> tuple[Request, InFlight, list[tuple[int, Exception]]]:
        """Accept a request.

        Returns:
            The request, its rows that are finite, padded to one of the lengths, and an error for each other position.

        Raises:
            RefusedError: If there is no room, or all requests are refused.
            TypeError: For inputs of another type, or a policy that is none.
            ValueError: For names, shapes, a policy, a deadline or a cap that are not those of the network.
        """
        self._check_room(1, now)
        policy = self._policy if terms.policy is None else self._checked(terms.policy)
        cap, deadline = self._exit(terms.cap_exit, self._cap), _deadline(terms.deadline_ms, now)
        rows, tokens = self._network.enter(x, coin=policy.needs_coin)
        self._check_room(len(rows), now)
        sound, errors = self._sound(rows)
        padded = self._padded(sound, tokens)
        request = Request(
            Ticket(self._accepted, len(rows)),
            policy,
            now,
            self.order.enter(len(rows), terms.client),
            deadline,
            cap,
            tokens,
            unpadded=None if padded is sound else rows,
            runs=[] if terms.traced else None,
        )
        self._accepted += 1
        if not len(rows):
            request.finish(Finished(rows.positions, 0, self._network.no_prediction(), (), rows.coin))
        return request, padded, errors

    def _check_room(self, examples: int, now: float) -> None:
        """Raise an error unless there is room for some examples."""
        if self.closed:
            raise RefusedError("expected a server that accepts requests, got one that closes; use another one", None)
        most = self._options.max_rows
        if examples > most:
            raise ValueError(f"expected at most {most} examples in a request, got {examples}; send several requests")
        over = self._book.rows + examples - most
        if over > 0 and examples:
            time = self._book.leaving.time_for(over, now)
            after = SOON if time == math.inf else min(time, LATEST)
            raise RefusedError(
                f"expected room for {examples} examples, got {self._book.rows} of at most {most} that are not yet "
                f"answered; try again in {after:.3g} s",
                after,
            )

    def _checked(self, policy: Policy) -> Policy:
        """Return a policy that can be used in place of that of the bundle, or raise an error."""
        if not isinstance(policy, Policy):
            raise TypeError(f"expected a policy of suffice_runtime, got {type(policy).__name__}")
        policy.check_replaces(self._own)
        return policy

    def _exit(self, value: int | None, most: int) -> int:
        """Return the exit at which examples stop at the latest: that of a request, and at most that of the server."""
        if value is None:
            return most
        number, exits = operator.index(value), len(self._network.graphs)
        if isinstance(value, bool) or not 0 <= number < exits:
            raise ValueError(f"expected cap_exit as the number of an exit, 0 to {exits - 1}, got {value}")
        return min(number, most)

    def _sound(self, rows: InFlight) -> tuple[InFlight, list[tuple[int, Exception]]]:
        """Return the rows whose inputs are finite and in range, and an error for each other position."""
        try:
            self._network.check_finite(rows)
        except ValueError:
            errors = list[tuple[int, Exception]]()
            for i in range(len(rows)):
                try:
                    self._network.check_finite(rows.take(np.array([i])))
                except ValueError as error:
                    errors.append((i, error))
            bad = {i for i, _ in errors}
            return rows.take(np.array([i for i in range(len(rows)) if i not in bad], dtype=np.int64)), errors
        return rows, []

    def _padded(self, rows: InFlight, tokens: int | None) -> InFlight:
        """Return texts of one of the lengths, or the same rows if there is none for them."""
        if not tokens or self._network.manifest.padding is None or not len(rows):
            return rows
        length = lengths.padded_length(tokens, self._options.lengths)
        return rows if length == tokens else lengths.pad(rows, self._network.manifest, length)


def _deadline(milliseconds: float | None, now: float) -> float:
    """Return the time of a deadline in seconds, +inf if there is none."""
    if milliseconds is None:
        return math.inf
    if not (math.isfinite(milliseconds) and milliseconds > 0):
        raise ValueError(f"expected deadline_ms as a finite number above 0, got {milliseconds}")
    return now + milliseconds / 1000
