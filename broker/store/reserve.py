"""Reserve: room behind the end of the embedded server's file, which nobody else can take when the disk fills up.

A server answers before anybody knows that its disk was full: the write that failed was answered, and what Valkey makes
of a write that is torn in the middle it may not be able to read. So a write must not fail. Blocks that were allotted
to the file beyond its end (fallocate(2), FALLOC_FL_KEEP_SIZE) are there for what is appended; its length is as before.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from broker.leash import LINUX
from broker.store import aof

if TYPE_CHECKING:
    from pathlib import Path

_KEEP_SIZE = 1
_BLOCK = 512
"""Bytes: the unit of st_blocks, whatever the file system's own is."""

_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def left(folder: Path) -> int:
    """Return how many bytes the file that the server appends to can grow by in any case. Raises OSError."""
    return _left((folder / aof.newest(folder)).stat())


def _left(state: os.stat_result) -> int:
    return state.st_blocks * _BLOCK - state.st_size


def top_up(folder: Path, size: int) -> None:
    """Let the file that the server appends to grow by so many bytes, unless it can grow by most of that.

    `folder` is that of the append-only files. Raises OSError when there is no file yet, or no room, or the file system
    cannot do it; on other systems than Linux nothing is done.
    """
    if _libc is None:
        return
    path = folder / aof.newest(folder)
    state = path.stat()
    if _left(state) > size * 3 // 4:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        offset, length = ctypes.c_long(state.st_size), ctypes.c_long(size)
        if _libc.fallocate(descriptor, _KEEP_SIZE, offset, length):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)
