"""When: moments and lengths of time, short enough for a table."""

from __future__ import annotations

from datetime import UTC, datetime


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago a moment was: `12s`, `5m`, `3h`, `2d`."""
    if moment is None:
        return ""
    seconds = max(0, int(((now or datetime.now(UTC)) - moment).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def length(seconds: float | None) -> str:
    """Return how long something took: `8 ms`, `1.25 s`, `3m20s`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.2f} s"
    return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"


def iso(moment: datetime | None) -> str | None:
    """Return a moment for programs: `2026-11-23T07:51:07.123456Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None
