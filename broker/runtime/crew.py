"""Crew: the environments of one function in one worker, what is known of its pace, and how many it should have."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from broker.runtime.environment import Environment

if TYPE_CHECKING:
    from broker.attempt import Attempt
    from broker.function import Function

AHEAD = 0.004
"""Seconds of work that an environment may be sent ahead, so that fast functions need not wait for the worker."""

DEEPEST = 256
"""How many invocations may be sent ahead at the most."""

GROW_AFTER = 0.01
"""Seconds for which a function's environments must have been full before it gets another; for each that it has."""

BUSY = 0.5
"""From this share of processor time on, more environments than processor cores would only stand in each other's way."""

LONGEST_HOLD = 30.0
"""Seconds between two tries, when environments die in init again and again."""

CORES = os.cpu_count() or 1


class Place:
    """One environment in the pool, with the attempts it has been given, in order."""

    __slots__ = ("attempts", "cold", "crew", "descriptors", "environment", "idle_since", "init_ms", "retired")

    def __init__(self, environment: Environment, crew: Crew) -> None:
        """Take a newly started environment, and those of the same function and version."""
        self.environment = environment
        self.crew = crew
        self.descriptors: tuple[int, ...] = (environment.control, environment.output)
        """Watched for reading, the first also for writing; no more when nothing comes over it, as when it has died and
        the numbers are others'."""
        self.attempts: dict[str, Attempt] = {}
        self.idle_since: float | None = time.monotonic()
        self.init_ms: float | None = None
        self.cold = True
        """Whether who comes next has to wait for its init."""
        self.retired = False
        """It gets nothing more; it ends when what it has is done."""

    def retire(self) -> None:
        """Give it nothing more, and let it end when what it has is done."""
        self.retired = True
        self.crew.open.remove(self)
        if not self.attempts:
            self.environment.stop()


def load(place: Place) -> int:
    """Return how many attempts an environment has, for comparison with others."""
    return len(place.attempts)


class Crew:
    """The environments of one version of a function."""

    def __init__(self, function: Function) -> None:
        """Take the function."""
        self.function = function
        self.open: list[Place] = []
        """Its environments, except those that are retired."""
        self.pace: float | None = None
        """Seconds that an attempt takes, as a moving average; None before the first has ended."""
        self.full_since: float | None = None
        """When more was waiting than its environments could take."""
        self.hold_until = 0.0
        """No new environment before this moment: the last ones died in init."""
        self._load = 1.0
        """The share of its time for which an attempt keeps a processor busy, as a moving average."""
        self._init_failures = 0

    @property
    def depth(self) -> int:
        """How many attempts one environment may hold."""
        if self.pace is None or self.pace > AHEAD:
            return 1
        if self.function.batch:
            return 2  # the next one is there when this one ends
        return max(1, min(DEEPEST, int(AHEAD / max(self.pace, 1e-6))))

    @property
    def most(self) -> int:
        """How many environments it may have, as far as it is up to the function."""
        function = self.function
        limits = [limit for limit in (function.max, function.concurrency) if limit is not None]
        if self._load > BUSY and self.pace is not None:
            limits.append(max(CORES, function.min))
        return min(limits, default=DEEPEST)

    def free(self) -> int:
        """Return how many attempts its environments can take now."""
        depth = self.depth
        return sum(depth - len(place.attempts) for place in self.open)

    def is_due_another(self, now: float) -> bool:
        """Return whether it should get one more environment: it has none, or all have been full for long enough."""
        if now < self.hold_until or len(self.open) >= self.most:
            return False
        if not self.open:
            return True
        if self.full_since is None or now - self.full_since < GROW_AFTER * len(self.open):
            return False
        return all(place.init_ms is not None for place in self.open)  # one at a time

    def lacks(self) -> bool:
        """Return whether it has fewer environments than are always to be warm."""
        return len(self.open) < self.function.min

    def can_spare(self, place: Place) -> bool:
        """Return whether an environment does nothing and need not be kept."""
        return place.idle_since is not None and not place.retired and len(self.open) > self.function.min

    def learn(self, seconds: float, cpu_seconds: float) -> None:
        """Take into account how long an attempt took, and how much of that it computed."""
        load = min(1.0, cpu_seconds / seconds) if seconds > 0 else 1.0
        if self.pace is None:
            self.pace, self._load = seconds, load
        else:
            self.pace = self.pace * 0.9 + seconds * 0.1
            self._load = self._load * 0.9 + load * 0.1

    def init_succeeded(self) -> None:
        """Start the next ones at once again."""
        self._init_failures = 0

    def init_failed(self, now: float) -> None:
        """Hold back the next one: a quarter of a second, twice as long each time."""
        self._init_failures += 1
        self.hold_until = now + min(LONGEST_HOLD, 0.25 * 2.0 ** min(self._init_failures, 8))
