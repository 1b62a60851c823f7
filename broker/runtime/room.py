"""Room: how many environments one worker may have: as many as it is told, as long as there is memory for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

LOOK_EVERY = 1.0
"""Seconds between two looks at the memory."""

RESERVE = 0.05
"""The share of the machine's memory that is left alone."""

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


class Room:
    """The places for environments, counted and weighed."""

    def __init__(
        self, most: int, memory: int | None, *, machine: Callable[[], tuple[int, int] | None] | None = None
    ) -> None:
        """Take how many there may be, and how many bytes they may occupy together; None: what the machine has.

        `machine` returns the bytes that the machine can still give, and those that it has; None: nobody knows.
        """
        self.most = most
        self._memory = memory
        self._machine = machine or of_this_machine
        self._left: float = float("inf")
        """Bytes that may still be occupied; negative when there are too few."""
        self._look_at = 0.0

    def look(self, now: float, occupied: Callable[[], Iterable[int]]) -> bool:
        """Weigh them if it is time to; `occupied` yields each one's bytes. Returns whether memory is short now."""
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_EVERY
        left = float("inf") if self._memory is None else self._memory - sum(occupied())
        if (machine := self._machine()) is not None:
            available, total = machine
            left = min(left, available - RESERVE * total)
        self._left = left
        return left < 0

    def fits(self, count: int, memory: int) -> bool:
        """Return whether one more that may grow to `memory` bytes can be added to `count`. The first always can."""
        return count == 0 or (count < self.most and memory <= self._left)

    def take(self, memory: int) -> None:
        """Set memory aside for an environment that was started since the last look."""
        self._left -= memory


def of_this_machine() -> tuple[int, int] | None:
    """Return the bytes that this machine, or the container that it seems to be, can still give, and all it has.

    Sources: proc_meminfo(5), and cgroup v2's memory.max and memory.current.
    """
    try:
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        available, total = (int(fields[name].split()[0]) << 10 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        return min(available, limit - int((_CGROUP / "memory.current").read_text())), min(total, limit)
    except (OSError, ValueError):  # there is none, or it says "max"
        return available, total
