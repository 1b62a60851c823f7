"""Schedule: events at the times of a cron expression, at an interval, or once."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from broker.quantity import Duration
from broker.source import Source
from sources._schedule.scheduled import TYPE, scheduled
from sources._schedule.ticker import Ticker, wall_clock
from sources._schedule.ticks import Cron, Every, Once, Ticks, find_moment, find_zone, following

if TYPE_CHECKING:
    from broker.source import SourceContext

SHORTEST = Duration(0.1)


class Schedule(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One schedule; exactly one of `cron`, `every` and `at`.

    Each tick is an event of the type `schedule.tick`. Its id is the due time in UTC (`2026-11-23T03:00:00Z`), so two
    hosts with the same schedule run it once; its `time` is the due time, its subject the expression, its data

        {"due": "2026-11-24T02:00:00Z", "local": "2026-11-24T03:00:00+01:00", "timezone": "Europe/Berlin",
         "missed": false, "late_seconds": 0.001}

    The first start begins now. After that the last due time dealt with is kept in Redis, and a restart goes on from
    there. A schedule whose expression or time zone is changed begins anew.

    Daylight saving time: a local time that the clocks skip in spring is skipped; one that they show twice in autumn
    runs once, at the first. This holds for every cron expression, so `*/5 * * * *` pauses during the second pass of
    the doubled hour; with `timezone = "UTC"`, or as `every`, it does not.
    """

    cron: str | None = None
    """`minute hour day-of-month month day-of-week` as in crontab(5), or `@hourly`, `@daily`, `@weekly`, `@monthly`,
    `@yearly`. Weekdays 0 and 7 are Sunday. When neither day field begins with `*`, a day that matches one of them will
    do."""
    every: Duration | None = None
    """At the multiples of this interval since 1970-01-01T00:00Z, hence at the same moments on every host."""
    at: Annotated[Any, msgspec.Meta(extra_json_schema={"type": "string", "format": "date-time"})] = None
    """Once: `"2027-01-01T00:00"`, or a date of TOML; in `timezone` unless it has an offset."""
    timezone: str = "UTC"
    """IANA name. Never the machine's own zone, which differs from host to host."""
    jitter: Duration = Duration(0)
    """Publish up to this much later than due: by how much depends on the source's name and the due time alone."""
    missed: Literal["skip", "once", "all"] = "once"
    """What becomes of ticks that fell due while no host ran: nothing, one event for the last of them, or all."""
    catch_up: Duration = Duration(7 * 86400)
    """How long ago a missed tick may have been due to be made up for."""
    overlap: Literal["allow", "skip", "queue"] = "allow"
    """What becomes of a tick while the run before it has not ended: it runs as well, not at all, or afterwards."""

    @property
    def expression(self) -> str:
        """The expression as one would write it: `0 3 * * *`, `10s`, `2027-01-01T00:00:00`."""
        if self.at is not None:
            return self.at.isoformat() if isinstance(self.at, date) else str(self.at)
        return str(self.every) if self.every is not None else str(self.cron)

    def zone(self) -> ZoneInfo:
        """Return the time zone. Raises ValueError."""
        return find_zone(self.timezone)

    def ticks(self) -> Ticks:
        """Return the due times. Raises ValueError."""
        return self._ticks(self.zone())

    def _ticks(self, zone: ZoneInfo) -> Ticks:
        if self.cron is not None:
            return Cron.parse(self.cron, zone)
        if self.every is not None:
            return Every(interval=timedelta(seconds=self.every))
        return Once(moment=find_moment(self.at, zone))

    def upcoming(self, now: datetime, n: int) -> list[datetime]:
        """Return the next `n` due times after `now`, in the schedule's time zone and before jitter."""
        return [tick.astimezone(self.zone()) for tick in islice(following(self.ticks(), now), n)]

    def aws(self, event: dict[str, Any], attempt: int) -> Any:
        """Return EventBridge's scheduled event."""
        return scheduled(event) if event["type"] == TYPE else super().aws(event, attempt)

    def steps(self, context: SourceContext) -> Ticker:
        """Return the ticker: a host has one thread for all its schedules."""
        return Ticker(self, context, wall_clock)

    def check(self, root: Path) -> list[str]:
        """Return what is wrong with the options."""
        del root
        given = [name for name in ("cron", "every", "at") if getattr(self, name) is not None]
        if len(given) != 1:
            return [f"expected exactly one of cron, every and at, got {' and '.join(given) or 'none'}"]
        wrong = []
        if self.every is not None and self.every < SHORTEST:
            wrong.append(f"every: expected at least {SHORTEST}, got {self.every}")
        elif self.every is not None and self.jitter >= self.every:
            wrong.append(f"jitter: expected less than every ({self.every}), got {self.jitter}")
        if self.catch_up <= 0:
            wrong.append('catch_up: expected more than 0s; write missed = "skip" to make up for nothing')
        try:
            zone = self.zone()
        except ValueError as error:
            wrong.append(f"timezone: {error}")
            zone = find_zone("UTC")
        try:
            if self.every is None:
                self._ticks(zone)
        except ValueError as error:
            wrong.append(f"{given[0]}: {error}")
        return wrong

    def plan(self, root: Path) -> list[str]:
        """Return one line: `0 3 * * * (Europe/Berlin), next 2026-11-24 03:00 CET`."""
        del root
        upcoming = self.upcoming(wall_clock(), 1)
        if self.at is not None:
            moment = find_moment(self.at, self.zone()).astimezone(self.zone())
            return [f"at {_show(moment)}{'' if upcoming else ', which has passed'}"]
        what = f"every {self.every}" if self.every is not None else f"{self.cron} ({self.timezone})"
        return [what + "".join(f", next {_show(tick)}" for tick in upcoming)]


def _show(tick: datetime) -> str:
    seconds = f"{tick:%S.%f}".rstrip("0").rstrip(".") if tick.microsecond else f"{tick:%S}"
    return f"{tick:%Y-%m-%d %H:%M}{'' if seconds == '00' else ':' + seconds} {tick:%Z}"
