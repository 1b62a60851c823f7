"""Learning: have a worker run what was deployed while it works."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from broker.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.worker.parts import Parts

LEARN_EVERY = 10.0
"""Seconds between looks at what was deployed, should the telling of it have been missed."""


class Learning:
    """What one worker knows of deployed functions, and when it looks again."""

    def __init__(self, parts: Parts) -> None:
        """Take a worker's parts, which know what was deployed when it began."""
        self._parts = parts
        self._look_at = 0.0
        self.queues = set(self._queues())
        """All queues that it may have claimed from, also those of functions that are gone."""

    def soon(self) -> None:
        """Look at the next turn."""
        self._look_at = 0.0

    def now(self) -> None:
        """Look at once, or soon if Redis is away."""
        self._look_at = 0.0
        with suppress(StoreUnavailable):
            self.learn(time.monotonic())

    def learn(self, now: float) -> None:
        """Take note of what was deployed: what is claimed from now on runs it, what runs goes on as it is."""
        if now < self._look_at:
            return
        parts = self._parts
        changed = parts.deployed.refresh(parts.client)
        self._look_at = now + LEARN_EVERY
        if changed:
            parts.demand.serve(parts.deployed.now.by_name)
            self.queues.update(self._queues())
            parts.pool.keep(parts.deployed.live())
            parts.registration.serve([*sorted(parts.demand.functions), *parts.plain.queues] or ["broker"])

    def _queues(self) -> Iterator[str]:
        return (queue for function in self._parts.demand.functions.values() for queue in function.queues)
