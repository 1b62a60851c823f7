"""Beat: what a worker does once a second, whatever it does besides: it renews its lease and takes stock."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rq.worker.base import WorkerStatus

from broker.errors import StoreUnavailable

if TYPE_CHECKING:
    from broker.budget import Budgets
    from broker.worker.ears import Ears
    from broker.worker.learning import Learning
    from broker.worker.lease import Lease
    from broker.worker.parts import Parts
    from broker.worker.strays import Strays

log = logging.getLogger("broker.worker")

BEAT, BUSY_BEAT = 1.0, 0.5
"""Seconds between renewals of the lease, and while something runs, which a moment's standstill must not lose; every
queue is looked at as often, should a ring have been missed."""


class Beat:
    """The beats of one worker."""

    def __init__(
        self, parts: Parts, *, ears: Ears, lease: Lease, strays: Strays, learning: Learning, budgets: Budgets
    ) -> None:
        """Take a worker's parts; the first beat is due at once."""
        self.at = 0.0
        """The monotonic moment of the next."""
        self._parts = parts
        self._ears = ears
        self._lease = lease
        self._strays = strays
        self._learning = learning
        self._budgets = budgets

    def soon(self) -> None:
        """Beat at the next turn."""
        self.at = 0.0

    def beat(self, now: float) -> None:
        """Renew the lease when it is time to; stock is taken with the answer. Raises StoreUnavailable."""
        if now < self.at:
            return
        self.at = now + (BUSY_BEAT if self._parts.pool.running else BEAT)
        self._parts.plain.tick(now)
        self._ears.listen(now)  # while it fails, each beat looks at every queue and tries again
        self._lease.renew(self._take_stock)

    def _take_stock(self) -> None:
        """Look at what is to be looked at now and then."""
        now, parts, demand = time.monotonic(), self._parts, self._parts.demand
        kept = (function for function in demand.functions.values() if function.min)
        parts.pool.keep_warm([version for function in kept for version in parts.deployed.versions(function)], now)
        demand.hungry.update(demand.functions)
        if self._budgets:
            demand.overspent, news = self._budgets.stopped(parts.client, datetime.now(UTC))
            for account in news:
                log.warning("%s", account)
        self._strays.give_back(self._learning.queues, now)
        running = [(one.claimed[0], one.running_for()) for one in parts.pool.running_attempts()]
        with suppress(StoreUnavailable):  # a Redis that is full takes no news, and runs what it has all the same
            parts.registration.beat(state=self._now_doing(), running=running)

    def _now_doing(self) -> WorkerStatus:
        if self._parts.pool.running or self._parts.plain.busy:
            return WorkerStatus.BUSY
        return WorkerStatus.SUSPENDED if self._lease.suspended else WorkerStatus.IDLE
