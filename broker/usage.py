"""Usage: what functions cost: requests, billed time and memory, a day and function at a time.

The ledger adds it up in the hashes `broker:usage:DAY:FUNCTION`; a day is one of UTC. Billed time is that of each
attempt in whole milliseconds, rounded up; GB-seconds are billed time times the function's memory, as AWS Lambda bills.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Literal

import msgspec

from broker.ledger import available

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from redis import Redis

By = Literal["function", "day"]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What was used, of one function or several, in a day or several."""

    requests: int = 0
    """Attempts that ended; a batch is one."""
    errors: int = 0
    """Those of them that failed, wholly or in part."""
    throttles: int = 0
    """How often an invocation was refused because the queue was full."""
    billed_ms: int = 0
    mb_ms: int = 0
    """Billed milliseconds times megabytes of memory."""
    cold_starts: int = 0
    cpu_us: int = 0
    """Microseconds of processor time, with what importing the handler took."""
    log_bytes: int = 0

    @property
    def billed_seconds(self) -> float:
        """Billed time in seconds."""
        return self.billed_ms / 1000

    @property
    def gb_seconds(self) -> float:
        """Billed time times memory, in seconds times gigabytes (of 1024 MB)."""
        return self.mb_ms / 1024 / 1000

    @property
    def cpu_seconds(self) -> float:
        """Processor time in seconds."""
        return self.cpu_us / 1e6

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in Usage.__struct_fields__})


def days(today: date, count: int) -> list[date]:
    """Return the last `count` days, today included, the first one first."""
    return [today - timedelta(days=ago) for ago in reversed(range(count))]


def cells(client: Redis, functions: Iterable[str], period: Sequence[date]) -> dict[tuple[date, str], Usage]:
    """Return what was used in these days, by day and function; without those that used nothing.

    Raises StoreUnavailable.
    """
    keys = [(day, function) for function in functions for day in period]
    pipeline = client.pipeline(transaction=False)
    for day, function in keys:
        pipeline.hgetall(f"broker:usage:{day.isoformat()}:{function}")
    with available():
        answers = pipeline.execute()
    return {
        key: msgspec.convert({name.decode(): n.decode() for name, n in fields.items()}, Usage, strict=False)
        for key, fields in zip(keys, answers, strict=True)
        if fields
    }


def summed(found: Mapping[tuple[date, str], Usage], by: By | Literal["month"]) -> dict[str, Usage]:
    """Return the sums by function, by day (`2026-11-23`) or by month (`2026-11`), sorted."""
    sums: dict[str, Usage] = {}
    for (day, function), used in found.items():
        name = function if by == "function" else day.isoformat()[: 10 if by == "day" else 7]
        sums[name] = sums.get(name, Usage()) + used
    return dict(sorted(sums.items()))


def usage(client: Redis, functions: Iterable[str], period: Sequence[date], by: By) -> dict[str, Usage]:
    """Return what was used in these days, by function or by day. Raises StoreUnavailable."""
    return summed(cells(client, functions, period), by)


def total(parts: Iterable[Usage]) -> Usage:
    """Return the sum of all."""
    return sum(parts, Usage())
