"""Cursor: how far a schedule has got, kept in Redis so that a restart neither loses nor repeats a run.

Keys, after the source's prefix:

    cursor   hash: `due` is the last due time dealt with, `schedule` what it was the due time of
    waiting  sorted set of due times whose turn has not come (overlap = "queue"); the score is Unix seconds
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from broker.event import rfc3339
from broker.source import Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.source import Work

# Forward only, as a second host may be ahead; and only for the same schedule, as a host that still runs the old
# configuration must not write over the new one's. Due times have one width, so they compare as text.
_MOVE = """
local stored = redis.call('HMGET', KEYS[1], 'due', 'schedule')
if stored[2] and (stored[2] ~= ARGV[2] or stored[1] >= ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'due', ARGV[1], 'schedule', ARGV[2])
return 1
"""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A tick that waits for its turn."""

    due: datetime
    missed: bool
    entry: bytes
    """As it stands in Redis."""


class Cursor:
    """The cursor of one schedule. What its methods return is carried out where it is yielded from."""

    def __init__(self, prefix: str, schedule: str) -> None:
        """Take what identifies the schedule: once its expression is changed, its past says nothing any more."""
        self._key = f"{prefix}cursor"
        self._waiting = f"{prefix}waiting"
        self._schedule = schedule

    def load(self) -> Work[datetime | None]:
        """Return the last due time dealt with; None when this schedule has never run."""
        due, schedule = yield Command(("HMGET", self._key, "due", "schedule"))
        if due is None or schedule is None or schedule.decode() != self._schedule:
            return None
        return datetime.fromisoformat(due.decode())

    def begin(self, now: datetime) -> Work[None]:
        """Start anew: what was due up to now is no concern."""
        yield Command(("HSET", self._key, "due", rfc3339(now), "schedule", self._schedule))

    def move(self, due: datetime) -> Work[bool]:
        """Note that all up to `due` is dealt with; False when that had been noted already, by another host."""
        moved = yield Command(("EVAL", _MOVE, 1, self._key, rfc3339(due), self._schedule))
        return bool(moved)

    def enqueue(self, ticks: Sequence[datetime], *, missed: bool) -> Work[int]:
        """Let ticks wait for their turn; return how many wait now."""
        flag = " missed" if missed else ""
        entries = [word for tick in ticks for word in (tick.timestamp(), f"{rfc3339(tick)}{flag}")]
        yield Command(("ZADD", self._waiting, *entries))
        count: int = yield Command(("ZCARD", self._waiting))
        return count

    def first_waiting(self) -> Work[Waiting | None]:
        """Return the tick that has waited longest."""
        entries: list[bytes] = yield Command(("ZRANGE", self._waiting, 0, 0))
        if not entries:
            return None
        due, _, flag = entries[0].decode().partition(" ")
        return Waiting(due=datetime.fromisoformat(due).astimezone(UTC), missed=bool(flag), entry=entries[0])

    def remove(self, waiting: Waiting) -> Work[None]:
        """Forget a tick that has been published."""
        yield Command(("ZREM", self._waiting, waiting.entry))
