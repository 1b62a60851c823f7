"""Sharing: which function gets one more environment of those that a worker may have, and which gives one up for it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from broker.runtime.crew import Crew, Place, load
from broker.runtime.inside import limits

if TYPE_CHECKING:
    from broker.runtime.room import Room
    from broker.runtime.staging import Staging

BALANCE_EVERY = 0.1
"""Seconds between two looks at whether one function has too many environments and another too few."""


class Sharing:
    """How the functions of one worker share its room."""

    def __init__(self, room: Room, staging: Staging, crews: Collection[Crew], places: Collection[Place]) -> None:
        """Take the room, and views of all crews and environments that there are."""
        self._room = room
        self._staging = staging
        self._crews = crews
        self._places = places
        self._balance_at = 0.0

    def free(self, crew: Crew, now: float) -> int:
        """Return how many attempts the crew's environments can take now, or the new one that it may get: that one 1."""
        free = crew.free()
        return 1 if free <= 0 and self.may_grow(crew, now) else free

    def may_grow(self, crew: Crew, now: float) -> bool:
        """Return whether a crew may get one more environment now."""
        if not crew.is_due_another(now) or not self._staging.ready(crew.function, now):
            return False
        return self._fits(crew) or self._longest_idle(crew) is not None

    def may_wait(self, crew: Crew, now: float) -> bool:
        """Whether an attempt may wait here for room: of a function that has no environment and could have one."""
        return now >= crew.hold_until and not crew.open and self._staging.ready(crew.function, now)

    def make_room(self, crew: Crew) -> bool:
        """Return whether the crew can get one more environment, if need be for one that others do not use."""
        if self._fits(crew):
            return True
        if (idle := self._longest_idle(crew)) is not None:
            idle.retire()
        return idle is not None

    def ask_for_room(self, crew: Crew) -> None:
        """Retire an environment of the function that has most, should that have at least two more than this one."""
        richest = max(self._crews, key=lambda other: len(other.open))
        if len(richest.open) > max(len(crew.open) + 1, richest.function.min):
            min(richest.open, key=load).retire()

    def take(self, crew: Crew) -> None:
        """Count in an environment that is started for a crew."""
        if crew.full_since is not None:  # still full, as far as is known; the next one is not started before a while
            crew.full_since = time.monotonic()
        self._room.take(int(crew.function.memory))

    def tick(self, now: float) -> None:
        """Retire an environment when memory is short, or when it is another function's turn to have one more."""
        if self._room.look(now, self._occupied) and (idle := self._longest_idle()) is not None:
            idle.retire()
        if now >= self._balance_at:
            self._balance_at = now + BALANCE_EVERY
            self._balance(now)

    def _balance(self, now: float) -> None:
        """Let the function with most environments give one up for one that has fewer and cannot get another."""
        if any(place.retired for place in self._places):
            return  # room is being made already
        for crew in self._crews:
            if crew.full_since is not None and crew.is_due_another(now) and not self._fits(crew):
                self.ask_for_room(crew)
                return

    def _fits(self, crew: Crew) -> bool:
        return self._room.fits(len(self._places), int(crew.function.memory))

    def _longest_idle(self, beside: Crew | None = None) -> Place | None:
        """Return the environment, of any function but one, that has been idle longest and need not be kept."""
        idle = [place for place in self._places if place.crew is not beside and place.crew.can_spare(place)]
        return min(idle, key=lambda place: place.idle_since or 0, default=None)

    def _occupied(self) -> Iterator[int]:
        """Yield the bytes of each environment; of one that is starting, those that it may get."""
        for place in self._places:
            limit, pid = int(place.crew.function.memory), place.environment.pid
            yield (
                limit
                if place.init_ms is None or pid is None
                else limits.memory_of([pid, *limits.descendants(pid)], limit)
            )
