"""LockFile: a file whose lock says whether its owner lives, and whose text says who it is.

The kernel gives the lock (flock(2)) back when the last process that has the file open ends, however it ends. So, unlike
a process id in a file, it is never stale and never means a stranger that got the same number.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from broker.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

DYING = 0.5
"""Seconds that a killed broker may take to be gone, so that it can be started anew at once."""


class LockFile:
    """The lock of one path. The file stays when the lock is released: removing it would let two hold it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None
        """Open while held; a child that inherits it holds the lock, too."""

    def acquire(self) -> bool:
        """Take the lock unless another holds it; say whether it is ours now. Raises OSError."""
        if self.descriptor is not None:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        os.truncate(descriptor, 0)  # whoever is named in there is gone
        self.descriptor = descriptor
        return True

    def sign(self) -> None:
        """Write this process's id into the file; only what is safe between fork and exec."""
        if self.descriptor is not None:
            os.truncate(self.descriptor, 0)
            os.pwrite(self.descriptor, b"%d\n" % os.getpid(), 0)

    def owner(self) -> int | None:
        """Return the process id in the file; it means something only while another holds the lock."""
        try:
            return int(self.path.read_text())
        except (OSError, ValueError):
            return None

    def release(self) -> None:
        """Give the lock back, unless a child that inherited it goes on holding it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def take(lock: LockFile) -> None:
    """Make the broker's data folder if need be, and take its lock.

    Raises StoreError when another broker runs there, and OSError when the folder cannot be used.
    """
    if not lock.path.parent.is_dir():
        lock.path.parent.mkdir(parents=True, mode=0o700)
    patience = time.monotonic() + DYING
    while not lock.acquire():
        if time.monotonic() < patience:
            time.sleep(0.01)
            continue
        raise StoreError(
            f"another broker already runs in {lock.path.parent} (process {lock.owner()}). "
            f'Stop that one first, or give this one a folder of its own: data = "..." in the [broker] table'
        )
    lock.sign()
