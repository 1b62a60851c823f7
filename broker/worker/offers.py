"""Offers: for which functions a worker takes what is published next at once, without asking for it; see orders.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.ledger import Want

if TYPE_CHECKING:
    from broker.function import Function
    from broker.runtime.pool import Pool
    from broker.worker.demand import Demand

NONE, WITHDRAWN = 0, -1


class Offers:
    """The offers of one worker that may stand in Redis: each is for one invocation."""

    def __init__(self, demand: Demand, pool: Pool) -> None:
        """Take what is known of the functions."""
        self._demand = demand
        self._pool = pool
        self._standing: dict[str, tuple[Function, int]] = {}
        """Those that may stand, of each function the last: with its number."""
        self.doubt()  # a worker of this name may have died and left some

    def doubt(self) -> None:
        """Note that some may stand that are not known of: each is made anew or withdrawn."""
        for name, function in self._demand.functions.items():
            self._standing.setdefault(name, (function, 0))

    def obsolete(self, *, welcome: bool) -> list[Function]:
        """Return the functions whose offer may stand and must not; of those not `welcome`, all.

        Only who may have something waiting is looked at: at each beat that is everybody.
        """
        if not welcome:
            return [function for function, _ in self._standing.values()]
        looked_at = [self._standing[name][0] for name in self._demand.hungry if name in self._standing]
        return [function for function in looked_at if not self._may_stand(function)]

    def make(self, function: Function, number: int, *, welcome: bool) -> int:
        """Return what a claim says of a function: that one is offered as that execution, or what is said instead."""
        if welcome and self._may_stand(function):
            self._standing[function.name] = (function, number)
            return number
        return WITHDRAWN if self._standing.pop(function.name, None) else NONE

    def withdraw(self, function: Function) -> Want:
        """Return what withdraws the offer of a function in a claim, and asks for nothing."""
        self._standing.pop(function.name, None)
        return Want(function=function.name, queues=(), most=0, offer=WITHDRAWN)

    def taken(self, name: str, number: int) -> bool:
        """Note that the offer of that number does not stand any more; return whether a later one may."""
        if name in self._standing and self._standing[name][1] <= number:
            del self._standing[name]
        return name in self._standing

    def _may_stand(self, function: Function) -> bool:
        """Whether one more could begin at once: an environment waits for it, and there is nothing to be counted."""
        name, demand = function.name, self._demand
        if function.batch or function.concurrency or function.rate or name in demand.overspent:
            return False
        return name in demand.functions and self._pool.is_idle(function)


def number_of(execution: str) -> int:
    """Return the number of one of a worker's executions."""
    return int(execution.rpartition(".")[2], 16)
