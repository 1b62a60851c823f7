"""Ticker: publish one schedule's ticks as they fall due, make up for missed ones, keep runs from overlapping.

A step never waits: it yields what it wants of Redis, and returns the seconds until the next one. So one thread steps
any number of tickers, and what falls due at once goes to Redis together: see broker/clockwork.py.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from broker.event import Event, new_event
from broker.source import Publish, Publishing
from sources._schedule.cursor import Cursor
from sources._schedule.scheduled import TYPE
from sources._schedule.ticks import Ticks, between, jitter, last, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from zoneinfo import ZoneInfo

    from broker.source import SourceContext, Work
    from sources.schedule import Schedule

POLL = 0.1
"""Seconds between looks at whether the run that a queued tick waits for has ended."""

LATE = timedelta(seconds=5)
"""A tick later than this was missed, even while the source runs: the machine slept, or Redis was away."""

WRONG_CLOCK = timedelta(days=1)
"""A cursor further ahead than this was written under a wrong clock; waiting for it could take years."""

NOTICED = timedelta(seconds=1)
"""A clock that goes back by less is not worth a line in the log."""

GROUP = 500
"""How many missed ticks are published in one call."""


class Ticker:
    """The ticks of one schedule source, dealt with one after the other.

    A tick is published first and the cursor moved afterwards: whoever dies in between publishes it again, under the
    same id, and the ledger refuses that.
    """

    def __init__(self, schedule: Schedule, context: SourceContext, clock: Callable[[], datetime]) -> None:
        """Take the options, which must have passed `check`; `clock` returns the time in UTC."""
        self._context = context
        self._clock = clock
        self._ticks: Ticks = schedule.ticks()
        self._zone: ZoneInfo = schedule.zone()
        self._subject = schedule.expression
        self._jitter = timedelta(seconds=schedule.jitter)
        self._missed = schedule.missed
        self._catch_up_window = timedelta(seconds=schedule.catch_up)
        self._overlap = schedule.overlap
        self._how = Publishing(track=schedule.overlap != "allow")
        self._cursor = Cursor(context.prefix, f"{schedule.expression} {schedule.timezone}")
        self._position = clock()
        self._next: datetime | None = None
        self._tried: datetime | None = None
        """The tick that was dealt with last. While it is still the next one, it could not be published."""
        self._read_last = self._position
        self._has_waiting = False

    def start(self) -> Work[float]:
        """Go on from the cursor, or begin now if there is none; return the seconds until the first step."""
        now = self._clock()
        position = yield from self._cursor.load()
        if position is None:
            yield from self._begin(now)
        else:
            self._stand_at(position)
            self._read_last = max(now, position)  # the clock was there once
            yield from self._watch_clock(now)
            yield from self._catch_up(now)
        if self._overlap == "queue":
            yield from self._give_turn()
        else:
            yield from self._free_waiting()
        return self._rest()

    def step(self) -> Work[float]:
        """Do what is due; return the seconds until the next step."""
        now = self._clock()
        yield from self._watch_clock(now)
        # Nobody waits for what has ended but the next tick: ten thousand schedules are not to ask Redis all the time.
        if self._how.track and (self._next is None or self._has_waiting or self._release(self._next) <= now):
            for ended in self._context.ended():
                self._context.log.debug("%s: the run of %s has ended", self._context.name, ended.event)
        if self._next is not None and self._next == self._tried:  # it was not missed, however late it is by now
            yield from self._deal([self._next], missed=False)
        if self._next is not None and now - self._release(self._next) > LATE:
            yield from self._catch_up(now)
        while self._next is not None and self._release(self._next) <= now and not self._context.stopping.is_set():
            self._tried = self._next
            yield from self._deal([self._next], missed=False)
        if self._has_waiting:
            yield from self._give_turn()
        return self._rest()

    def _rest(self) -> float:
        longest = POLL if self._has_waiting else math.inf  # whoever steps it does so when the clock was set
        if self._next is None:
            return longest
        return min(longest, max(0.0, (self._release(self._next) - self._clock()).total_seconds()))

    def _release(self, tick: datetime) -> datetime:
        """Return when the tick is to be published."""
        return tick + jitter(self._context.name, tick, self._jitter) if self._jitter else tick

    def _begin(self, now: datetime) -> Work[None]:
        yield from self._cursor.begin(now)
        self._stand_at(now)

    def _stand_at(self, position: datetime) -> None:
        self._position = position
        self._next = self._ticks.after(position)

    def _watch_clock(self, now: datetime) -> Work[None]:
        if self._read_last - now > NOTICED:
            self._context.log.warning(
                "%s: the clock went back to %s; what has run by then is not run again", self._context.name, stamp(now)
            )
        self._read_last = now
        # With no tick ahead (`at`) the schedule is over, and beginning anew would repeat it.
        if self._next is not None and self._position - now > WRONG_CLOCK:
            self._context.log.warning(
                "%s: the last due time, %s, is far ahead of the clock; beginning anew from now",
                self._context.name,
                stamp(self._position),
            )
            yield from self._begin(now)

    def _catch_up(self, now: datetime) -> Work[None]:
        """Deal with what fell due while nobody looked, as `missed` says."""
        # Another host may have dealt with it.
        position = max(self._position, (yield from self._cursor.load()) or self._position)
        # All that is due by then has also passed its jitter; what is younger takes the usual way.
        until = now - self._jitter
        since = max(position, min(until, now - self._catch_up_window))
        if (forgone := last(self._ticks, position, since)) is not None:
            self._say_missed(position, forgone, "not run, as that is longer ago than catch_up")
        newest = last(self._ticks, since, until)
        if newest is None:
            self._stand_at(since)
        elif self._missed == "all":
            self._say_missed(since, newest, "running all of them")
            missed = between(self._ticks, since, newest)
            while (group := list(islice(missed, GROUP))) and not self._context.stopping.is_set():
                yield from self._deal(group, missed=True)
        elif self._missed == "once":
            self._say_missed(since, newest, "running the last one")
            yield from self._deal([newest], missed=True)
        else:
            self._say_missed(since, newest, 'not run, as missed = "skip"')
            yield from self._cursor.move(newest)
            self._stand_at(newest)

    def _say_missed(self, since: datetime, until: datetime, then: str) -> None:
        first = self._ticks.after(since)
        self._context.log.warning(
            "%s: missed the runs due from %s to %s: %s", self._context.name, first and stamp(first), stamp(until), then
        )

    def _deal(self, ticks: Sequence[datetime], *, missed: bool) -> Work[None]:
        """Publish or keep the ticks, which are in order, and move the cursor past them."""
        if self._overlap == "allow":
            yield self._publish(ticks, missed=missed)
            yield from self._cursor.move(ticks[-1])
        elif self._overlap == "queue":
            count = yield from self._cursor.enqueue(ticks, missed=missed)
            yield from self._cursor.move(ticks[-1])
            self._has_waiting = True
            if count > 1 and count & (count - 1) == 0:  # at 2, 4, 8 ...: a queue that grows is to be seen, not to flood
                self._context.log.warning("%s: %d runs wait for their turn", self._context.name, count)
        else:
            for tick in ticks:
                yield from self._publish_or_skip(tick, missed=missed)
        self._stand_at(ticks[-1])

    def _publish_or_skip(self, tick: datetime, *, missed: bool) -> Work[None]:
        if not self._context.open():
            yield self._publish([tick], missed=missed)
            yield from self._cursor.move(tick)
        elif (yield from self._cursor.move(tick)):
            # Had it not moved, then the run that is still going would be this very one, published by another host.
            self._context.log.warning(
                "%s: the run due at %s is skipped, as the one before still runs", self._context.name, stamp(tick)
            )

    def _give_turn(self) -> Work[None]:
        """Publish the tick that waits longest, when nothing of this source runs."""
        while waiting := (yield from self._cursor.first_waiting()):
            # Asked after looking: had another host published this tick meanwhile, it would be open, or ended and then
            # published again under the same id.
            if self._context.stopping.is_set() or self._context.open():
                break
            yield self._publish([waiting.due], missed=waiting.missed)
            yield from self._cursor.remove(waiting)
        self._has_waiting = waiting is not None

    def _free_waiting(self) -> Work[None]:
        """Publish what has waited since `overlap` was "queue"."""
        while (waiting := (yield from self._cursor.first_waiting())) and not self._context.stopping.is_set():
            yield self._publish([waiting.due], missed=waiting.missed)
            yield from self._cursor.remove(waiting)

    def _publish(self, ticks: Sequence[datetime], *, missed: bool) -> Publish:
        return Publish(events=[self._event(tick, missed=missed) for tick in ticks], how=self._how)

    def _event(self, tick: datetime, *, missed: bool) -> Event:
        late = max(0.0, (self._clock() - self._release(tick)).total_seconds())
        return new_event(
            source=self._context.name,
            type=TYPE,
            id=stamp(tick),
            subject=self._subject,
            time=tick,
            data={
                "due": stamp(tick),
                "local": tick.astimezone(self._zone).isoformat(),
                "timezone": self._zone.key,
                "missed": missed,
                "late_seconds": round(late, 3),
            },
        )


def wall_clock() -> datetime:
    """Return the time of the system's clock."""
    return datetime.now(UTC)
