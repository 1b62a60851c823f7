"""Records: what each measured task leaves behind, 24 bytes in a file; bench/apps/task.py writes them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

FORMAT = struct.Struct("<qqIi")


@dataclass(frozen=True, slots=True)
class Record:
    """One start (or end) of a task. Times are those of time.time_ns()."""

    at: int
    sent: int
    """When its producer began to enqueue it; 0 when nobody noted that."""
    number: int
    end: bool


def count(path: Path) -> int:
    """Return how many records are complete."""
    return path.stat().st_size // FORMAT.size if path.exists() else 0


def read(path: Path) -> list[Record]:
    """Return the complete records, in the order of their times."""
    data = path.read_bytes() if path.exists() else b""
    rows = FORMAT.iter_unpack(data[: len(data) // FORMAT.size * FORMAT.size])
    return sorted((Record(at, sent, number, bool(end)) for at, sent, number, end in rows), key=lambda one: one.at)


def rate(records: list[Record]) -> float:
    """Return records a second, from the first to the last. Raises ValueError for fewer than two."""
    if len(records) < 2 or records[-1].at == records[0].at:
        raise ValueError(f"{len(records)} records have no rate")
    return (len(records) - 1) / ((records[-1].at - records[0].at) / 1e9)
