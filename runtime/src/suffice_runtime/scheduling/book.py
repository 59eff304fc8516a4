"""Requests that are accepted and not yet answered, with their deadlines, and outcomes that are not yet collected."""

import heapq
import math

from suffice_runtime.running.network import Network
from suffice_runtime.scheduling.requests import Outcome, Request, Ticket
from suffice_runtime.scheduling.rules.rates import Rate


class Book:
    """Open requests of a scheduler.

    Args:
        network: Network that puts answers together.

    Attributes:
        rows: Number of examples of the open requests.
        leaving: Rate at which examples leave.
    """

    def __init__(self, network: Network) -> None:
        self.rows, self.leaving = 0, Rate()
        self._network = network
        self._open: dict[int, Request] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._outcomes: list[Outcome] = []

    def __len__(self) -> int:
        """Number of open requests."""
        return len(self._open)

    @property
    def next_deadline(self) -> float:
        """Earliest deadline of an open request, or +inf."""
        while self._deadlines and self._deadlines[0][1] not in self._open:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else math.inf

    def add(self, request: Request) -> None:
        """Add an accepted request."""
        self._open[request.ticket.number] = request
        self.rows += request.ticket.examples
        if request.deadline < math.inf:
            heapq.heappush(self._deadlines, (request.deadline, request.ticket.number))

    def find(self, ticket: Ticket) -> Request | None:
        """Return an open request, or None if it is answered or cancelled."""
        return self._open.get(ticket.number)

    def overdue(self, now: float) -> set[Request]:
        """Return the open requests whose deadline has come, each once."""
        found = set[Request]()
        while self.next_deadline <= now:
            found.add(self._open[heapq.heappop(self._deadlines)[1]])
        return found

    def remove(self, request: Request, now: float) -> None:
        """Close a request."""
        request.closed = True
        del self._open[request.ticket.number]
        self.rows -= request.ticket.examples
        self.leaving.add(request.ticket.examples, now)

    def settle(self, request: Request, now: float) -> None:
        """Close a request and keep its outcome, if all its examples have finished or failed."""
        if request.complete:
            self.remove(request, now)
            self._outcomes.append(request.outcome(self._network.answer, now))

    def collect(self) -> list[Outcome]:
        """Remove and return the outcomes."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes
