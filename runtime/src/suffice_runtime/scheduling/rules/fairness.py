"""Fair order of the examples of many requests, by self-clocked fair queueing (Golestani 1994).

Every example has a tag, and examples run in the order of their tags. Tags of a request begin behind the greatest tag
that has run at the time of its arrival, and rise by 1. So a request of many examples shares a stage with small ones
that come later, one example of each per round, and no example is overtaken for ever, as later requests have greater
tags. The requests of one client, if clients have names, follow one another as if they were one request.
"""

CLIENTS = 4096
"""Number of clients from which on those without waiting examples are forgotten."""


class Order:
    """Tags that have run, and the last tag of each client."""

    def __init__(self) -> None:
        self._ran = 0.0
        self._last: dict[str, float] = {}

    def enter(self, examples: int, client: str | None) -> float:
        """Return the tag of the first example of a new request."""
        start = self._ran
        if client is not None:
            start = max(start, self._last.get(client, 0.0))
            if len(self._last) >= CLIENTS:
                self._last = {name: tag for name, tag in self._last.items() if tag > self._ran}
            self._last[client] = start + examples
        return start + 1

    def run(self, tag: float) -> None:
        """Add that the example with a tag runs."""
        self._ran = max(self._ran, tag)
