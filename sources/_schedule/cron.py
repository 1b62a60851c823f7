"""Cron expressions: read the five fields as crontab(5) does, or say which field is wrong and how. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from broker.names import nearest

NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_ITEM = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\w+))?", re.ASCII)
_LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class _Field(NamedTuple):
    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()
    """Names of the values, from `first` on."""
    cycle: int = 0
    """Length of the cycle, where a range may run over the end: `nov-feb`, `sat-mon`. 0: it may not."""
    expected: str = ""

    @property
    def size(self) -> int:
        """How many different values there are."""
        return self.cycle or self.last - self.first + 1


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    _Field("minute", 0, 59, expected="0-59"),
    _Field("hour", 0, 23, expected="0-23"),
    _Field("day of month", 1, 31, expected="1-31"),
    _Field("month", 1, 12, _MONTHS, 12, expected="1-12 or jan-dec"),
    _Field("day of week", 0, 7, _WEEKDAYS, 7, expected="0-7 (0 and 7 are Sunday) or sun-sat"),
)


class Crontab(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a cron expression's fields, each sorted."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    """0 is Sunday."""
    either: bool
    """Both day fields are restricted, so a day that matches one of them will do; else it has to match both."""

    @classmethod
    def parse(cls, expression: str) -> Crontab:
        """Read `minute hour day-of-month month day-of-week`, or a nickname such as `@daily`.

        As in crontab(5): lists, ranges, steps, three-letter names; 0 and 7 are Sunday; when neither day field begins
        with `*`, a day that matches either of them will do. Beyond it: `5/15` is `5-59/15`, and ranges of months and
        weekdays may run over the end (`nov-feb`, `sat-mon`). Raises ValueError.
        """
        texts = _expand(expression).split()
        if len(texts) != len(_FIELDS):
            names = ", ".join(field.name for field in _FIELDS)
            raise ValueError(f"expected 5 fields ({names}), got {len(texts)} in {expression!r}")
        minutes, hours, days, months, weekdays = map(_values, _FIELDS, texts)
        either = not texts[2].startswith("*") and not texts[4].startswith("*")
        if not either and all(days[0] > _LONGEST_MONTH[month - 1] for month in months):
            raise ValueError(f"day of month: expected a day that month {texts[3]} has, got {texts[2]!r}")
        return cls(minutes=minutes, hours=hours, days=days, months=months, weekdays=weekdays, either=either)


def _expand(expression: str) -> str:
    text = expression.strip()
    if not text.startswith("@"):
        return text
    if text.lower() not in NICKNAMES:
        hint = nearest(text, NICKNAMES)
        raise ValueError(f"expected {', '.join(NICKNAMES)}, got {text!r}{hint and f'; {hint}'}")
    return NICKNAMES[text.lower()]


def _values(field: _Field, text: str) -> tuple[int, ...]:
    values: set[int] = set()
    for item in text.split(","):
        values.update(_item_values(field, item))
    return tuple(sorted(values))


def _item_values(field: _Field, item: str) -> list[int]:
    match = _ITEM.fullmatch(item)
    if not match or (match["first"] == "*" and match["last"]):
        raise ValueError(
            f"{field.name}: expected *, {field.expected}, a range (a-b), a list (a,b) or a step (*/n), got {item!r}"
        )
    end = field.first + field.size - 1  # of weekdays 6: 7 is but a second name of Sunday
    if match["first"] == "*":
        first, last = field.first, end
    else:
        first = _value(field, match["first"])
        open_end = max(first, end) if match["step"] else first
        last = _value(field, match["last"]) if match["last"] else open_end
    if first > last:
        if not field.cycle:
            raise ValueError(
                f"{field.name}: expected a range that runs forward, got {item!r}; "
                f"write {first}-{field.last},{field.first}-{last}"
            )
        last += field.cycle
    step = _step(field, match["step"], item) if match["step"] else 1
    return [_wrapped(field, value) for value in range(first, last + 1, step)]


def _value(field: _Field, text: str) -> int:
    if text.lower() in field.names:
        return field.first + field.names.index(text.lower())
    if not text.isdecimal() or not field.first <= int(text) <= field.last:
        raise ValueError(f"{field.name}: expected {field.expected}, got {text!r}")
    return int(text)


def _step(field: _Field, text: str, item: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= field.size:
        raise ValueError(f"{field.name}: expected a step from 1 to {field.size}, got {item!r}")
    return int(text)


def _wrapped(field: _Field, value: int) -> int:
    return (value - field.first) % field.cycle + field.first if field.cycle else value
