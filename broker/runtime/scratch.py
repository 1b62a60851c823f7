"""Scratch: the folder in which each environment of one worker has its own /tmp.

The worker holds a lock on the folder (flock), which the kernel gives back however the worker ends. So a folder that
nobody holds was left by one that was killed together with its nursery, and the next worker has it removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "broker-tmp-"
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")


class Scratch:
    """One worker's folder of private /tmp folders. It is short, since paths of sockets may not be long."""

    def __init__(self) -> None:
        """Make the folder, in $TMPDIR or /tmp. Others may pass through it but not look into it."""
        made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}"))  # not yet a name that `abandoned` knows
        self._lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        made.chmod(0o711)
        self.path = made.rename(made.with_name(made.name[1:]))

    def folder(self, environment: str) -> Path:
        """Return where the /tmp of an environment lies; the environment makes it, the nursery removes it."""
        return self.path / environment[:16]

    def close(self) -> None:
        """Remove the folder, which is empty when no environment is left."""
        with contextlib.suppress(OSError):
            self.path.rmdir()
        os.close(self._lock)


class Gauge:
    """Measures a folder, some hundred entries at a time, since whoever asks has other things to do."""

    STEP = 500

    def __init__(self, folder: Path) -> None:
        """Take the folder; it need not be there yet."""
        self._folder = folder
        self._walk = _walk(folder)
        self._sum = 0

    def look(self) -> int:
        """Go on where the last look has ended; return how many bytes on the disk were seen since the beginning."""
        seen = list(itertools.islice(self._walk, self.STEP))
        self._sum += sum(seen)
        total = self._sum
        if len(seen) < self.STEP:
            self._walk, self._sum = _walk(self._folder), 0
        return total


def _walk(folder: Path) -> Iterator[int]:
    todo = [str(folder)]
    while todo:
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    yield entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)


def abandoned() -> list[Path]:
    """Return the folders of this user's workers of which none lives."""
    return [
        path for path in Path(tempfile.gettempdir()).iterdir() if _NAME.fullmatch(path.name) and _is_abandoned(path)
    ]


def _is_abandoned(path: Path) -> bool:
    try:
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            return False
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
