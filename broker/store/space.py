"""Space: see to it that what the embedded server has answered for finds room on its disk.

A server whose file cannot grow refuses all writes that follow. But the one that failed was answered, and is in its
memory alone. So nothing new is taken on any more while there is still room; what is there is run. And should the disk
fill up faster than anybody looks, the server's file has some allotted already (reserve.py); when that is used up, or
cannot be had, a file laid down for that purpose, the ballast, makes room for what was answered.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NAME = "ballast"

EVERY = 1.0
"""Seconds between two looks."""

RESERVE, AHEAD, BALLAST = 64 << 20, 16 << 20, 8 << 20
"""With less than so many bytes left nothing new is taken on; how many the server's file is ahead; those of ballast."""

SHARE = 8
"""On a small disk the reserve is no more than this part of it; the others in proportion."""


class Space:
    """The room that is left on the disk of one folder."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, which need not be there yet."""
        self._folder = folder
        self._ballast = folder / NAME
        self.scarce = False
        """Whether nothing new may be taken on, as of the last look."""
        self.left = 0
        """How many bytes were left at the last look."""
        self.ahead = 0
        """How many bytes the server's file should be able to grow by, whatever becomes of the disk."""

    def look(self) -> None:
        """See how much is left; lay the ballast when there is plenty. Raises OSError when the folder is not there."""
        usage = shutil.disk_usage(self._folder)
        reserve = min(RESERVE, usage.total // SHARE)
        ballast = reserve * BALLAST // RESERVE
        self.left, self.ahead = usage.free, reserve * AHEAD // RESERVE
        # More is asked for at the end than at the beginning, so that a disk at the limit does not go to and fro.
        self.scarce = usage.free < reserve + (ballast if self.scarce else 0)
        if not self.scarce and usage.free > reserve + 2 * ballast and not self._ballast.exists():
            with suppress(OSError):  # a quota, say; there will be another look
                self._lay(ballast)

    def drop_ballast(self) -> bool:
        """Make room at once; say whether there was any to be made. Raises OSError."""
        try:
            self._ballast.unlink()
        except FileNotFoundError:
            return False
        return True

    def _lay(self, size: int) -> None:
        beside = self._ballast.with_suffix(".new")
        with beside.open("wb", buffering=0) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:  # macOS
                file.write(b"\xff" * size)
        beside.replace(self._ballast)
