"""Ticks: the moments at which a schedule is due. Pure date arithmetic; all moments are in UTC.

What daylight saving time does to cron expressions is decided here, not by APScheduler. Its CronTrigger, given a time
zone, fires at local times that do not exist (02:30 on the night when 02:00 becomes 03:00 fires at 03:30) and fires
twice at those that occur twice. So it is asked in plain calendar time, without a zone, and each answer is looked up
in the zone afterwards: a local time that does not exist is skipped; of one that occurs twice, the first counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol
from zoneinfo import ZoneInfo, available_timezones

from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from broker.names import nearest
from sources._schedule.cron import Crontab

if TYPE_CHECKING:
    from collections.abc import Iterator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_APART = timedelta(milliseconds=1)
"""Less than lies between any two ticks."""


class Ticks(Protocol):
    """The moments at which a schedule is due."""

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick later than the moment; None when there is none any more."""


@dataclass(frozen=True, kw_only=True)
class Every:
    """Ticks at the multiples of an interval since 1970-01-01T00:00Z, so that all hosts have the same ones."""

    interval: timedelta

    def after(self, moment: datetime) -> datetime:
        """Return the first tick later than the moment."""
        return _EPOCH + ((moment - _EPOCH) // self.interval + 1) * self.interval


@dataclass(frozen=True, kw_only=True)
class Once:
    """A single tick."""

    moment: datetime

    def after(self, moment: datetime) -> datetime | None:
        """Return the tick if it is later than the moment."""
        return self.moment if self.moment > moment else None


@dataclass(frozen=True, kw_only=True)
class Cron:
    """The ticks of a cron expression in a time zone; see above for daylight saving time."""

    trigger: Any
    """An APScheduler trigger whose UTC stands for the zone's local time."""
    zone: ZoneInfo

    @classmethod
    def parse(cls, expression: str, zone: ZoneInfo) -> Cron:
        """Read a cron expression. Raises ValueError."""
        return cls(trigger=_trigger(expression), zone=zone)

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick later than the moment."""
        local = moment.astimezone(self.zone).replace(tzinfo=UTC, fold=0, microsecond=0)
        while True:
            local = self.trigger.get_next_fire_time(None, local + timedelta(seconds=1))
            if local is None:
                return None
            tick = instant(local, self.zone)
            # In the second pass of a doubled hour the local times ahead belong to the first pass, which is over.
            if tick is not None and tick > moment:
                return tick


@lru_cache(maxsize=2048)  # thousands of schedules have far fewer expressions, and each is read twice
def _trigger(expression: str) -> Any:
    crontab = Crontab.parse(expression)
    fields = {
        "minute": _list(crontab.minutes, 60),
        "hour": _list(crontab.hours, 24),
        "month": _list(crontab.months, 12),
        "timezone": UTC,
    }
    day = _list(crontab.days, 31)
    # APScheduler counts weekdays from Monday.
    weekday = _list([(weekday - 1) % 7 for weekday in crontab.weekdays], 7)
    if crontab.either:
        return OrTrigger([CronTrigger(day=day, **fields), CronTrigger(day_of_week=weekday, **fields)])
    return CronTrigger(day=day, day_of_week=weekday, **fields)


def _list(values: tuple[int, ...] | list[int], size: int) -> str:
    return "*" if len(values) == size else ",".join(map(str, values))


def instant(local: datetime, zone: ZoneInfo) -> datetime | None:
    """Return when the zone's clocks first show that time; None when they skip it. The time's own zone is ignored."""
    wall = local.replace(tzinfo=zone, fold=0)
    moment = wall.astimezone(UTC)
    exists = moment.astimezone(zone).replace(tzinfo=None) == wall.replace(tzinfo=None)
    return moment if exists else None


def between(ticks: Ticks, since: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the ticks later than `since`, up to and including `until`."""
    return takewhile(lambda tick: tick <= until, following(ticks, since))


def following(ticks: Ticks, since: datetime) -> Iterator[datetime]:
    """Yield the ticks later than `since`."""
    tick = ticks.after(since)
    while tick is not None:
        yield tick
        tick = ticks.after(tick)


def last(ticks: Ticks, since: datetime, until: datetime) -> datetime | None:
    """Return the last tick later than `since`, up to and including `until`; found by halving, not by counting."""
    found = ticks.after(since)
    if found is None or found > until:
        return None
    while until - found > _APART:
        middle = found + (until - found) / 2
        tick = ticks.after(middle)
        if tick is not None and tick <= until:
            found = tick
        else:
            until = middle
    return found


def jitter(name: str, tick: datetime, longest: timedelta) -> timedelta:
    """Return how much later than due a tick is published: evenly spread, but the same on every host."""
    digest = blake2b(f"{name}\0{stamp(tick)}".encode(), digest_size=8).digest()
    return longest * (int.from_bytes(digest) / 2**64)


def stamp(tick: datetime) -> str:
    """Return the tick as `2026-11-23T03:00:00Z`, with a fraction only where it has one."""
    return tick.astimezone(UTC).isoformat().replace("+00:00", "Z")


def find_zone(name: str) -> ZoneInfo:
    """Return the IANA time zone. Raises ValueError, which names the nearest one."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not there; not a plain name; a folder such as "Europe"
        hint = nearest(name, available_timezones())
        raise ValueError(
            f"expected an IANA time zone such as Europe/Berlin, got {name!r}{hint and f'; {hint}'}"
        ) from None


def find_moment(at: object, zone: ZoneInfo) -> datetime:
    """Return the moment that `at` names: ISO 8601 text or a TOML date, in `zone` unless it has an offset.

    Raises ValueError when it is neither, or when the zone's clocks skip it.
    """
    local = at
    if isinstance(local, str):
        try:
            local = datetime.fromisoformat(local)
        except ValueError:
            local = None
    if isinstance(local, date) and not isinstance(local, datetime):
        local = datetime(local.year, local.month, local.day)  # noqa: DTZ001 -- the zone follows below
    if not isinstance(local, datetime):
        raise ValueError(f'expected a date such as "2027-01-01T00:00", got {at!r}')  # noqa: TRY004 -- see Raises
    if local.tzinfo is not None:
        return local.astimezone(UTC)
    if (moment := instant(local, zone)) is None:
        raise ValueError(f"{local.isoformat()} does not exist in {zone.key}: the clocks skip it")
    return moment
