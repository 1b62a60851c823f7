"""Cursor: how far a schedule has got, kept in Redis so that a restart neither loses nor repeats a run.

Keys, after the source's prefix:

    cursor   hash: `due` is the last due time dealt with, `schedule` what it was the due time of
    waiting  sorted set of due times whose turn has not come (overlap = "queue"); the score is Unix seconds
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import msgspec

from broker.event import rfc3339
from broker.ledger import available

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

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
    """The cursor of one schedule. All methods raise StoreUnavailable while Redis is away."""

    def __init__(self, redis: Redis, prefix: str, schedule: str) -> None:
        """Take what identifies the schedule: once its expression is changed, its past says nothing any more."""
        self._redis = redis
        self._key = f"{prefix}cursor"
        self._waiting = f"{prefix}waiting"
        self._schedule = schedule

    def load(self) -> datetime | None:
        """Return the last due time dealt with; None when this schedule has never run."""
        with available():
            due, schedule = cast("list[bytes | None]", self._redis.hmget(self._key, ["due", "schedule"]))
        if due is None or schedule is None or schedule.decode() != self._schedule:
            return None
        return datetime.fromisoformat(due.decode())

    def begin(self, now: datetime) -> None:
        """Start anew: what was due up to now is no concern."""
        with available():
            self._redis.hset(self._key, mapping={"due": rfc3339(now), "schedule": self._schedule})

    def move(self, due: datetime) -> bool:
        """Note that all up to `due` is dealt with; False when that had been noted already, by another host."""
        with available():
            return bool(self._redis.eval(_MOVE, 1, self._key, rfc3339(due), self._schedule))

    def enqueue(self, ticks: Sequence[datetime], *, missed: bool) -> int:
        """Let ticks wait for their turn; return how many wait now."""
        flag = " missed" if missed else ""
        with available():
            pipeline = self._redis.pipeline()
            pipeline.zadd(self._waiting, {f"{rfc3339(tick)}{flag}": tick.timestamp() for tick in ticks})
            pipeline.zcard(self._waiting)
            return int(pipeline.execute()[1])

    def first_waiting(self) -> Waiting | None:
        """Return the tick that has waited longest."""
        with available():
            entries = cast("list[bytes]", self._redis.zrange(self._waiting, 0, 0))
        if not entries:
            return None
        due, _, flag = entries[0].decode().partition(" ")
        return Waiting(due=datetime.fromisoformat(due).astimezone(UTC), missed=bool(flag), entry=entries[0])

    def remove(self, waiting: Waiting) -> None:
        """Forget a tick that has been published."""
        with available():
            self._redis.zrem(self._waiting, cast("Any", waiting.entry))
