"""Claiming: what a worker asks the ledger for, and what it offers to take besides, as it is published."""

from __future__ import annotations

import time
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from broker.ledger import Claimed, Want, calls
from broker.ledger.jobs import function_of
from broker.worker.offers import number_of

if TYPE_CHECKING:
    from broker.function import Function
    from broker.ledger import Claim
    from broker.ledger.calls import Call
    from broker.worker.beginning import Beginning
    from broker.worker.hand_over import HandOver
    from broker.worker.lease import Lease
    from broker.worker.offers import Offers
    from broker.worker.parts import Parts


class Claiming:
    """The claims of one worker, one after another."""

    def __init__(
        self, parts: Parts, *, offers: Offers, hand_over: HandOver, lease: Lease, beginning: Beginning
    ) -> None:
        """Take a worker's parts, what is offered and handed over, and what begins that which it gets."""
        self._name = parts.name
        self._pipelined = parts.pipelined
        self._demand = parts.demand
        self._pool = parts.pool
        self._offers = offers
        self._hand_over = hand_over
        self._lease = lease
        self._beginning = beginning
        self._execution_number = 1
        self._first: int | None = None
        """The first execution number of the claim that is on its way."""
        self._closed = False

    @property
    def is_waiting(self) -> bool:
        """Whether a claim is on its way."""
        return self._first is not None

    def is_coming(self, execution: str) -> bool:
        """Return whether an execution may be in the answer to the claim that is on its way."""
        return self._first is not None and number_of(execution) >= self._first

    def claim(self, wants: list[tuple[Function, int]], *, welcome: bool) -> None:
        """Ask for so many invocations of each function, if any; and offer to take one more of those that are idle.

        It is not `welcome` when nothing more may begin than what was asked for.
        """
        obsolete = self._offers.obsolete(welcome=welcome)
        if not wants and not obsolete:
            return
        self._hand_over.expect(self._execution_number)
        self._first = self._execution_number
        self._execution_number += sum(_most(function, vacancies) for function, vacancies in wants)
        asked = []
        for function, vacancies in wants:
            offer = self._offers.make(function, self._execution_number, welcome=welcome)
            self._execution_number += 1
            asked.append(_want(function, vacancies, offer))
        self._demand.hungry.difference_update(want.function for want in asked)  # who is heard of from now on is new
        named = {want.function for want in asked}
        asked += [self._offers.withdraw(function) for function in obsolete if function.name not in named]
        call = calls.claim(self._name, asked, self._first)
        self._pipelined.send(call, lambda answer: self._begin(wants, answer))

    def withdrawal(self) -> Call[Claim]:
        """Return the call that withdraws all offers."""
        obsolete = self._offers.obsolete(welcome=False)
        return calls.claim(self._name, [self._offers.withdraw(function) for function in obsolete], 0)

    def lost(self) -> None:
        """Note that there may be no answer."""
        self._first = None
        self._offers.doubt()

    def close(self) -> None:
        """Begin nothing more: what is on its way is given back."""
        self._closed = True

    def _begin(self, wants: list[tuple[Function, int]], answer: Claim) -> None:
        now = time.monotonic()
        self._first = None
        if self._closed or not self._lease.holds():
            self._beginning.give_back(answer.claimed)
            return
        self._beginning.see(answer.changes)
        self._demand.await_all(answer.due_in, now)
        claimed: dict[str, list[Claimed]] = {}
        for queue, those in groupby(answer.claimed, attrgetter("queue")):
            claimed.setdefault(function_of(queue), []).extend(those)
        for asked_for, vacancies in wants:
            function = self._demand.functions.get(asked_for.name, asked_for)
            if asked_for.name in claimed:
                self._offers.taken(asked_for.name, self._execution_number)
            its = claimed.get(function.name, [])
            if function.name in self._hand_over.overtaking:
                room = self._pool.vacancies(function, now)
                self._beginning.give_back(its[room:])
                its = its[:room]
            if more := len(its) >= (function.batch.size if function.batch else vacancies):
                self._demand.hungry.add(function.name)
            self._beginning.start(function, its, now, more=more)
        self._pool.flush()


def _most(function: Function, vacancies: int) -> int:
    return function.batch.size if function.batch else vacancies


def _want(function: Function, vacancies: int, offer: int) -> Want:
    """Return what to ask the ledger for."""
    return Want(
        function=function.name,
        queues=function.queues,
        most=_most(function, vacancies),
        offer=offer,
        concurrency=function.concurrency or 0,
        batch=function.batch,
        interval=function.rate.interval if function.rate else 0,
    )
