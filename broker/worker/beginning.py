"""Beginning: how what was leased to a worker becomes attempts that environments run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.attempt import POISON, Attempt, parted
from broker.ledger import Claimed, Settlement
from broker.outcome import Failure, bury, release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker.function import Function
    from broker.outcome import Follow
    from broker.payload import Shaper
    from broker.worker.parts import Parts

SUSPECTS_WAIT = 0.2
"""Seconds after which a suspect that had to wait for another is claimed again."""


class Beginning:
    """Begins attempts, or says why not."""

    def __init__(
        self, parts: Parts, sources: Mapping[str, Shaper], follow: Follow, *, learn: Callable[[], None]
    ) -> None:
        """Take a worker's parts; `learn` is called when Redis says that there is news of what was deployed."""
        self._ledger = parts.ledger
        self._deployed = parts.deployed
        self._pool = parts.pool
        self._outbox = parts.outbox
        self._sources = sources
        self._follow = follow
        self._learn = learn
        self._suspect: Attempt | None = None
        """What runs and would become a dead letter should this worker die."""

    def settled(self, settlements: Iterable[Settlement]) -> None:
        """Note that Redis knows of these ends."""
        if self._suspect is not None and any(one.id == self._suspect.id for one in settlements):
            self._suspect = None  # not before: should this worker die now, it is not taken for what killed it

    def see(self, changes: int) -> None:
        """Learn of so many changes to deployed functions, when the bell for them was not heard yet."""
        if changes > self._deployed.changes:
            self._learn()

    def give_back(self, claimed: Iterable[Claimed]) -> None:
        """Give back what is not to be begun, as if it had never been leased."""
        self._outbox.settlements += [
            Settlement(verdict="release", queue=one.queue, id=one.id, execution=one.execution) for one in claimed
        ]

    def start(self, function: Function, claimed: list[Claimed], now: float, *, more: bool) -> None:
        """Start what was leased of a function; `more` of it may be waiting. `Pool.flush` sends it."""
        for version in self._deployed.versions(function):
            self._pool.note_demand(version, more=more, now=now)
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
