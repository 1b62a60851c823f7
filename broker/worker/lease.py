"""Lease: what keeps a worker's invocations its own."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from broker import identity
from broker.ledger import calls
from broker.outcome import release

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.ledger.values import Recovery
    from broker.worker.parts import Parts

log = logging.getLogger("broker.worker")

LEASE = 3.0
"""Seconds after which a silent worker's invocations go to others, by Redis' clock; a beat later another has noticed."""


class Lease:
    """The lease of one worker. Whoever renews it takes back, in the same step, what dead workers have left."""

    def __init__(self, parts: Parts) -> None:
        """Take a worker's parts; there is no lease yet."""
        self.informed = False
        """Whether the lease was renewed, and it was told whether RQ suspends, since Redis was away."""
        self.suspended = False
        """Whether RQ suspends workers."""
        self.term = 0
        """How often it was begun anew: what was leased to this worker in another term may be others' by now."""
        self._name = parts.name
        self._pipelined = parts.pipelined
        self._pool = parts.pool
        self._outbox = parts.outbox
        self._until = 0.0

    def renew(self, then: Callable[[], None]) -> None:
        """Renew it, and call `then` once Redis has said how things are."""
        until = time.monotonic() + LEASE
        self._pipelined.send(calls.recover(self._name, LEASE, ()), lambda state: self._renewed(state, until, then))

    def holds(self) -> bool:
        """Whether it has not run out for certain: else what was leased to this worker may be others' by now."""
        return time.monotonic() < self._until

    def lost(self) -> None:
        """Note that it may have run out: it is to be renewed before anything is claimed."""
        self.informed = False

    def _renewed(self, state: Recovery, until: float, then: Callable[[], None]) -> None:
        self._tell_recovered(state)
        if dead := [name for name in state.workers if name != self._name and identity.is_dead(name)]:
            self._pipelined.send(calls.recover("", 0, dead), self._tell_recovered)
        if not self.holds():
            self.term += 1
            for attempt in self._pool.drain():
                self._outbox.settlements += release(attempt)
        self.suspended, self.informed, self._until = state.suspended, True, until
        then()

    def _tell_recovered(self, state: Recovery) -> None:
        for _, id_, crashes in state.recovered:
            log.warning("%s: taken back from a worker that died (crash %d)", id_, crashes)
