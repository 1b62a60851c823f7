"""Shift: for how long a worker works: until a signal, the end of a burst, so many jobs, or so long without any.

As RQ has it: https://python-rq.org/docs/workers/
"""

from __future__ import annotations

import time


class Shift:
    """When a worker may take more, and when it is over."""

    def __init__(self, grace: float) -> None:
        """Take the seconds that running attempts get after the first signal."""
        self._grace = grace
        self._burst = False
        self._max_jobs: int | None = None
        self._max_idle_time: float | None = None
        self._busy_at = 0.0
        self.stops = 0
        """How often it was asked to end."""
        self.end_by: float | None = None
        """The monotonic moment at which what runs is given back."""

    def begin(self, *, burst: bool, max_jobs: int | None, max_idle_time: float | None) -> None:
        """Take the limits of RQ's `Worker.work`."""
        self._burst, self._max_jobs, self._max_idle_time = burst, max_jobs, max_idle_time
        self._busy_at = time.monotonic()

    def stop(self) -> None:
        """End: the first time when what runs has ended or the grace period is over, the second time at once."""
        self.stops += 1
        if self.end_by is None:
            self.end_by = time.monotonic() + self._grace

    def room(self, begun: int) -> int | None:
        """Return how many more may be begun when so many were; None: as many as there are."""
        if self.stops:
            return 0
        return None if self._max_jobs is None else max(0, self._max_jobs - begun)

    def is_over(self, now: float, *, ended: int, busy: bool, waiting: bool) -> bool:
        """Whether to end now: so many have ended, something runs, something may wait that can be run."""
        if self.stops > 1 or (self.end_by is not None and now > self.end_by):
            return True
        if busy:
            self._busy_at = now
            return False
        if self.stops or (self._max_jobs is not None and ended >= self._max_jobs):
            return True
        idle_for = now - self._busy_at
        return not waiting and (self._burst or (self._max_idle_time is not None and idle_for >= self._max_idle_time))
