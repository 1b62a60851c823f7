"""Outage: while Redis is away, when a worker tries again."""

from __future__ import annotations

import random

FIRST_WAIT, LONGEST_WAIT = 0.05, 1.0
"""Seconds between two tries; the longest is short enough to be back before a lease given then ends."""


class Outage:
    """What one worker knows of Redis' absence."""

    def __init__(self) -> None:
        """Redis is there, as far as is known."""
        self.until = 0.0
        """The monotonic moment of the next try."""
        self._wait = 0.0

    def begin(self, now: float) -> float:
        """Note that it did not answer; return in how many seconds to try again."""
        self._wait = min(LONGEST_WAIT, max(FIRST_WAIT, self._wait * 2))
        self.until = now + self._wait * random.uniform(0.5, 1)  # noqa: S311 -- spreads reconnections
        return self.until - now

    def end(self) -> None:
        """Note that it has answered."""
        self._wait = 0.0
