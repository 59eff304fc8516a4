"""Rate of events, such as examples that arrive, with an exponential memory."""

import math

MEMORY = 1.0
"""Seconds after which an event counts 1/e of what it counted first."""


class Rate:
    """Estimate λ(t) = Σ exp(−(t − tᵢ) / MEMORY) / MEMORY of events per second, over the times tᵢ of past events."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._last = -math.inf

    def add(self, count: int, now: float) -> None:
        """Add `count` events at one time, not earlier than those before."""
        self._weight = self._decayed(now) + count
        self._last = now

    def per_second(self, now: float) -> float:
        """Return λ."""
        return self._decayed(now) / MEMORY

    def time_for(self, count: int, now: float) -> float:
        """Return the expected seconds until `count` more events, max(count / λ, time since the last event).

        The time since the last event matters when a stream has stopped: λ falls slowly, but an event that is overdue
        by many intervals is not expected within one. Infinite if there was no event yet.
        """
        rate = self.per_second(now)
        return max(count / rate, now - self._last) if rate > 0 else math.inf

    def _decayed(self, now: float) -> float:
        if now == self._last:  # as for the examples of one batch
            return self._weight
        return self._weight * math.exp((self._last - now) / MEMORY) if self._weight else 0.0
