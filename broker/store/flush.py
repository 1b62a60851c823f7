"""Flush: bring to the disk, once a second, what the embedded server has written.

The server could do it itself (`appendfsync everysec`). But while a sync of its own is under way, it keeps what comes
in meanwhile in its memory, for up to two seconds, and acknowledges it all the same: killed then, it has lost what a
producer was told is safe. Told never to sync, it hands every write to the kernel before it answers; that outlives it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVERY = 1.0
"""Seconds between two flushes: so much can be missing after a power failure."""

_sync = os.fdatasync if sys.platform == "linux" else os.fsync  # macOS has the latter alone


class Flusher:
    """Flushes the files of one folder that have grown, or are new, since the last time."""

    def __init__(self, folder: Path, *, sync: Callable[[int], None] = _sync) -> None:
        """Take the folder, which need not be there yet, and what brings an open file to the disk."""
        self._folder = folder
        self._sync = sync
        self._flushed: dict[str, tuple[int, int]] = {}
        """name -> inode and size that are on the disk."""

    def flush(self) -> None:
        """Return when all that was there at the call is on the disk. Raises OSError when the disk refuses it."""
        flushed: dict[str, tuple[int, int]] = {}
        with suppress(FileNotFoundError):  # the folder is not there yet, or the server has just replaced a file
            for path in sorted(os.scandir(self._folder), key=lambda entry: entry.name):
                state = path.stat()
                flushed[path.name] = (state.st_ino, state.st_size)
                if self._flushed.get(path.name) != flushed[path.name]:
                    flushed[path.name] = self._bring(path.path)
        self._flushed = flushed

    def _bring(self, path: str) -> tuple[int, int]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            state = os.fstat(descriptor)  # it may have grown, or be another one by now
            self._sync(descriptor)
        finally:
            os.close(descriptor)
        return state.st_ino, state.st_size
