"""Claiming: what a worker asks the ledger for, and how what was claimed becomes attempts that environments run."""

from __future__ import annotations

import logging
import time
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from broker.attempt import POISON, Attempt, parted
from broker.ledger import Claimed, Settlement, Want, calls
from broker.ledger.jobs import function_of
from broker.outcome import Failure, bury, release
from broker.worker.offers import Offers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker.function import Function
    from broker.ledger import Claim
    from broker.ledger.calls import Call
    from broker.outcome import Follow
    from broker.payload import Shaper
    from broker.worker.lease import Lease
    from broker.worker.parts import Parts

log = logging.getLogger("broker.worker")

SUSPECTS_WAIT = 0.2
"""Seconds after which a suspect that had to wait for another is claimed again."""


class Claiming:
    """The claims of one worker, one after another."""

    def __init__(
        self,
        parts: Parts,
        sources: Mapping[str, Shaper],
        follow: Follow,
        *,
        lease: Lease,
        learn: Callable[[], None],
    ) -> None:
        """Take a worker's parts; `learn` is called when Redis says that there is news of what was deployed."""
        self._name = parts.name
        self._ledger = parts.ledger
        self._pipelined = parts.pipelined
        self._deployed = parts.deployed
        self._demand = parts.demand
        self._pool = parts.pool
        self._outbox = parts.outbox
        self._sources = sources
        self._follow = follow
        self._lease = lease
        self._learn = learn
        self._offers = Offers(parts.demand, parts.pool)
        self._execution_number = 1
        self._first: int | None = None
        """The first execution number of the claim that is on its way."""
        self._closed = False
        self._term = 0
        self._first_of_term = 1
        """The first execution number that was offered in that term of the lease."""
        self._refused: set[str] = set()
        """Executions that were given back before they were heard of."""
        self._overtaken: set[str] = set()
        """Functions of which something was handed over while a claim was on its way, which counted on its place."""
        self._suspect: Attempt | None = None
        """What runs and would become a dead letter should this worker die."""

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
        self._overtaken.clear()
        if self._term != self._lease.term:
            self._term, self._first_of_term = self._lease.term, self._execution_number
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

    def take_over(self, message: bytes, *, begin: bool) -> None:
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
        if not begin or self._closed or not self._is_held(number):
            self._give_back(answer.claimed)
            return
        self._see(answer.changes)
        function = self._demand.functions.get(name)
        if function is None or not (self._pool.is_idle(function) or self._pool.vacancies(function, now)):
            self._give_back(answer.claimed)  # its place has gone to something else meanwhile; another may have one
        else:
            if self.is_waiting:
                self._overtaken.add(name)
            self._start_all(function, answer.claimed, 2, now)
            self._pool.flush()
        if another or (function and self._pool.is_idle(function)):
            self._demand.hungry.add(name)  # an offer is to be made or withdrawn

    def withdrawal(self) -> Call[Claim]:
        """Return the call that withdraws all offers."""
        obsolete = self._offers.obsolete(welcome=False)
        return calls.claim(self._name, [self._offers.withdraw(function) for function in obsolete], 0)

    def refuse(self, executions: Iterable[str]) -> None:
        """Begin none of these, should they be heard of yet."""
        self._refused.update(executions)

    def lost(self) -> None:
        """Note that there may be no answer."""
        self._first = None
        self._refused.clear()  # what may have been on its way is lost with the connection
        self._offers.doubt()

    def close(self) -> None:
        """Begin nothing more: what is on its way is given back."""
        self._closed = True

    def told(self, settlements: Iterable[Settlement]) -> None:
        """Note that Redis knows of these ends."""
        if self._suspect is not None and any(one.id == self._suspect.id for one in settlements):
            self._suspect = None  # not before: should this worker die now, it is not taken for what killed it

    def _begin(self, wants: list[tuple[Function, int]], answer: Claim) -> None:
        now = time.monotonic()
        self._first = None
        if self._closed or not self._lease.holds():
            self._give_back(answer.claimed)
            return
        self._see(answer.changes)
        self._demand.await_all(answer.due_in, now)
        claimed: dict[str, list[Claimed]] = {}
        for queue, those in groupby(answer.claimed, attrgetter("queue")):
            claimed.setdefault(function_of(queue), []).extend(those)
        for asked_for, vacancies in wants:
            function = self._demand.functions.get(asked_for.name, asked_for)
            if asked_for.name in claimed:
                self._offers.taken(asked_for.name, self._execution_number)
            its = claimed.get(function.name, [])
            if function.name in self._overtaken:
                room = self._pool.vacancies(function, now)
                self._give_back(its[room:])
                its = its[:room]
            self._start_all(function, its, vacancies, now)
        self._pool.flush()

    def _is_held(self, number: int) -> bool:
        """Whether what was handed over as that execution is still this worker's for certain."""
        lease = self._lease
        return lease.holds() and self._term == lease.term and number >= self._first_of_term

    def _see(self, changes: int) -> None:
        """Learn of what was deployed, when the bell for that was not heard yet."""
        if changes > self._deployed.changes:
            self._learn()

    def _give_back(self, claimed: Iterable[Claimed]) -> None:
        self._outbox.settlements += [
            Settlement(verdict="release", queue=one.queue, id=one.id, execution=one.execution) for one in claimed
        ]

    def _start_all(self, function: Function, claimed: list[Claimed], vacancies: int, now: float) -> None:
        """Start what was claimed of a function, and note whether more of it may be waiting."""
        batch = function.batch
        more = len(claimed) >= (batch.size if batch else vacancies)
        for version in self._deployed.versions(function):
            self._pool.note_demand(version, more=more, now=now)
        if more:
            self._demand.hungry.add(function.name)
        for version, those in self._by_version(function, claimed):
            attempts = (self._begin_attempt(Attempt(version, together)) for together in parted(version, those))
            self._pool.give(version, [one for one in attempts if one is not None], now)

    def _by_version(self, function: Function, claimed: list[Claimed]) -> Iterable[tuple[Function, list[Claimed]]]:
        """Return which version of a function is to run what of it was claimed."""
        if not self._deployed.is_split(function) and not any(one.qualifier for one in claimed):
            return [(function, claimed)]
        groups: dict[str, tuple[Function, list[Claimed]]] = {}
        for one in claimed:
            version = self._deployed.pick(function, one.id, one.qualifier)
            groups.setdefault(version.version, (version, []))[1].append(one)
        return groups.values()

    def _begin_attempt(self, attempt: Attempt) -> Attempt | None:
        """Return an attempt that is to be run; one that must not be is settled."""
        if (hopeless := attempt.hopeless(self._sources)) is not None:
            rest, lost = attempt.part(hopeless, self._sources)
            for part, why in lost:
                self._outbox.settlements += bury(part, Failure.of(why), self._follow)
                self._outbox.add_lines(part)
            return self._begin_attempt(rest) if rest else None
        for one in attempt.claimed:
            if one.crashes and not self._may_crash(one, attempt):
                self._outbox.settlements += release(attempt, SUSPECTS_WAIT)
                return None
        attempt.begin()
        return attempt

    def _may_crash(self, one: Claimed, attempt: Attempt) -> bool:
        """Mark a suspect as running, and say whether it may run now.

        Before its last crash it runs with no other such beside it: else who is there each time dies with the poison.
        """
        if one.crashes >= POISON - 1:
            if self._suspect is not None:
                return False
            self._ledger.mark_running(one)  # when that fails it is not run, and nobody is to wait for its end
            self._suspect = attempt
        else:
            self._ledger.mark_running(one)
        return True


def number_of(execution: str) -> int:
    """Return the number of one of a worker's executions."""
    return int(execution.rpartition(".")[2], 16)


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
