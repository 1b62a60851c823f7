"""Imported: the files of the project that an environment has imported, and whether one of them is another now."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

LOOK_EVERY = 0.1
"""Seconds between two looks at the files."""

_MISSING = (-1, -1)
"""The time and size of a file that is not there, and need not be."""

_decode = msgspec.json.Decoder(list[tuple[str, int, int]]).decode


class Imported:
    """Files as they were when they were imported."""

    def __init__(self, now: float) -> None:
        """Know of none."""
        self._files: list[tuple[Path, int, int]] = []
        self._stale = False
        self._look_at = now + LOOK_EVERY

    def add(self, named: bytes) -> None:
        """Take what the environment says of files that it has imported. Raises DecodeError."""
        self._files += [(Path(path), mtime_ns, size) for path, mtime_ns, size in _decode(named)]

    def expire_with(self, files: Iterable[Path]) -> None:
        """Count as stale, too, once one of these is another file than now, or is there at last."""
        self._files += [(path, *(_stamp(path) or _MISSING)) for path in files]

    def stale(self) -> bool:
        """Return whether a file has changed; looks ten times a second at most."""
        now = time.monotonic()
        if not self._stale and now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._stale = any(_changed(*file) for file in self._files)
        return self._stale


def _changed(path: Path, mtime_ns: int, size: int) -> bool:
    now = _stamp(path)
    return (mtime_ns, size) != _MISSING if now is None else now != (mtime_ns, size)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
