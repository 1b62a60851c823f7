"""Hand-over: what a worker has offered to take and is told as it is published, without asking; see orders.lua."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from broker.ledger import calls
from broker.ledger.jobs import function_of
from broker.worker.offers import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.worker.beginning import Beginning
    from broker.worker.lease import Lease
    from broker.worker.offers import Offers
    from broker.worker.parts import Parts

log = logging.getLogger("broker.worker")


class HandOver:
    """Begins what is handed over to one worker, or gives it back."""

    def __init__(self, parts: Parts, *, offers: Offers, lease: Lease, beginning: Beginning) -> None:
        """Take a worker's parts, what it offers, and what begins that which it gets."""
        self.overtaking: set[str] = set()
        """Functions of which something was begun since the last claim went out: that claim had counted on its place."""
        self._demand = parts.demand
        self._pool = parts.pool
        self._offers = offers
        self._lease = lease
        self._beginning = beginning
        self._term = 0
        self._first_of_term = 1
        """The first execution number that was offered in that term of the lease."""
        self._refused: set[str] = set()
        """Executions that were given back before they were heard of."""

    def expect(self, number: int) -> None:
        """Note that a claim goes out, whose offers have no lower numbers than this."""
        self.overtaking.clear()
        if self._term != self._lease.term:
            self._term, self._first_of_term = self._lease.term, number

    def take(self, message: bytes, *, begin: bool) -> None:
        """Begin what was handed over, or give it back."""
        try:
            answer = calls.handed(message)
        except ValueError:
            log.warning("handed over, and no invocation: %r", message[:200])
            return
        (one,) = answer.claimed
        name, number, now = function_of(one.queue), number_of(one.execution), time.monotonic()
        another = self._offers.taken(name, number)
        if one.execution in self._refused:
            self._refused.remove(one.execution)
            return
        if not begin or not self._is_held(number):
            self._beginning.give_back(answer.claimed)
            return
        self._beginning.see(answer.changes)
        function = self._demand.functions.get(name)
        if function is None or not (self._pool.is_idle(function) or self._pool.vacancies(function, now)):
            # Its place has gone to something else meanwhile; another worker may have one.
            self._beginning.give_back(answer.claimed)
        else:
            self.overtaking.add(name)
            self._beginning.start(function, answer.claimed, now, more=False)
            self._pool.flush()
        if another or (function and self._pool.is_idle(function)):
            self._demand.hungry.add(name)  # an offer is to be made or withdrawn

    def refuse(self, executions: Iterable[str]) -> None:
        """Begin none of these, should they be heard of yet."""
        self._refused.update(executions)

    def lost(self) -> None:
        """Note that what may have been on its way is lost with the connection."""
        self._refused.clear()

    def _is_held(self, number: int) -> bool:
        """Whether what was handed over as that execution is still this worker's for certain."""
        lease = self._lease
        return lease.holds() and self._term == lease.term and number >= self._first_of_term
