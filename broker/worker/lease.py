"""Lease: what keeps a worker's invocations its own, and gives back those that it does not know of."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker import identity
from broker.ledger import Settlement, calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.ledger.values import Recovery
    from broker.worker.claiming import Claiming
    from broker.worker.parts import Parts

log = logging.getLogger("broker.worker")

LEASE = 3.0
"""Seconds after which a silent worker's invocations go to others, by Redis' clock; a beat later another has noticed."""

RECONCILE_EVERY = 3.0
"""Seconds between looks at whether this worker holds what it does not know of."""


class Lease:
    """The lease of one worker. Whoever renews it takes back, in the same step, what dead workers have left."""

    def __init__(self, parts: Parts, claiming: Claiming) -> None:
        """Take a worker's parts, which say what it knows of."""
        self.informed = False
        """Whether the lease was renewed, and it was told whether RQ suspends, since Redis was away."""
        self.suspended = False
        """Whether RQ suspends workers."""
        self.reconcile_at = 0.0
        """The monotonic moment of the next look at what this worker holds."""
        self._name = parts.name
        self._ledger = parts.ledger
        self._pipelined = parts.pipelined
        self._pool = parts.pool
        self._outbox = parts.outbox
        self._claiming = claiming

    def renew(self, then: Callable[[], None]) -> None:
        """Renew it, and call `then` once Redis has said how things are."""
        self._pipelined.send(calls.recover(self._name, LEASE, ()), lambda state: self._renewed(state, then))

    def lost(self) -> None:
        """Note that it may have run out: it is to be renewed before anything is claimed."""
        self.informed = False

    def give_back_unknown(self, queues: Iterable[str], now: float) -> None:
        """Give back what Redis has leased to this worker without its knowing: the answer to a claim was lost."""
        if now < self.reconcile_at:
            return
        self.reconcile_at = now + RECONCILE_EVERY
        known = {(one.id, one.execution) for attempt in self._pool.attempts() for one in attempt.claimed}
        known.update((id_, one.execution) for one in self._outbox.settlements for id_ in one.ids)
        unknown = [
            Settlement(verdict="release", queue=queue, id=id_, execution=execution)
            for queue, id_, execution in self._ledger.held_by(self._name, sorted(queues))
            if (id_, execution) not in known and not self._claiming.is_coming(execution)
        ]
        if unknown:
            log.warning("%d given back: they were claimed, and the answer was lost", len(unknown))
            self._outbox.settlements += unknown

    def _renewed(self, state: Recovery, then: Callable[[], None]) -> None:
        self._tell_recovered(state)
        if dead := [name for name in state.workers if name != self._name and identity.is_dead(name)]:
            self._pipelined.send(calls.recover("", 0, dead), self._tell_recovered)
        self.suspended, self.informed = state.suspended, True
        then()

    def _tell_recovered(self, state: Recovery) -> None:
        for _, id_, crashes in state.recovered:
            log.warning("%s: taken back from a worker that died (crash %d)", id_, crashes)
