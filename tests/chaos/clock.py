"""Clock: the wall clock of some processes, set ahead or back while they run.

Only what they read as the time of day is moved, by a few lines of C that are loaded before the C library (clock.c):
that is what happens when somebody sets the clock. Waiting goes by the monotonic clock, which nobody can set.
libfaketime moves more than that: sleeping fails when its clock jumps.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


class Clock:
    """A clock that is right at first; give `environ` to the processes that are to go by it."""

    def __init__(self, path: Path) -> None:
        """Take where to keep how far it is ahead."""
        self._path = path
        self._library = path.with_suffix(".so")
        self._path.write_bytes(struct.pack("l", 0))

    @property
    def environ(self) -> dict[str, str]:
        if not self._library.exists():
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", self._library, SOURCE], check=True)
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._path)}

    def set(self, seconds: int) -> None:
        """Put the clock so far ahead of the real one (or behind, when negative), at once."""
        with self._path.open("r+b", buffering=0) as file:
            file.write(struct.pack("l", seconds))
