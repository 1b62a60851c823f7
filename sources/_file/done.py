"""Done: put files away once all functions of their event have ended; never over another file."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from broker.source import Ended
from sources._file.event import read_id
from sources._file.folder import Folder, make_folder
from sources._file.journal import Journal

if TYPE_CHECKING:
    import logging


class Away:
    """Where files go when their event has ended, and the way there.

    Every step may be taken again after a crash: a file that is not there any more was put away before.
    """

    def __init__(
        self, folder: Folder, journal: Journal, log: logging.Logger, *, done: Path | None, failed: Path
    ) -> None:
        """Take absolute folders; without `done` files are deleted when all went well."""
        self._folder = folder
        self._journal = journal
        self._log = log
        self._done = done
        self._failed = failed

    def put(self, ended: Ended) -> None:
        """Put away the file of a tracked event; one that changed since stays, for that is an event of its own."""
        try:
            path, size, mtime = read_id(ended.event)
        except ValueError:
            self._log.warning("event %s ended, which is not about a file", ended.event)
            return
        try:
            found = self._folder.stat(path)
            if found and (found.st_size, found.st_mtime_ns) != (size, mtime):
                self._log.info("%s changed while its functions ran; it stays, and runs again", self._folder.path(path))
                return
            if found and not self._put(path, failed=ended.failed > 0):
                return
        except OSError as error:
            self._log.warning("%s cannot be put away and stays: %s", self._folder.path(path), error)
            return
        self._journal.forget([path])

    def _put(self, path: str, *, failed: bool) -> bool:
        file = Path(self._folder.path(path))
        into = self._failed if failed else self._done
        if into is None:
            file.unlink()
            return True
        return put_away(file, into / path) is not None


def put_away(file: Path, into: Path) -> Path | None:
    """Move a file to `into`, which is a path and not a folder; a name that is taken gets a number: `a-1.csv`.

    Returns where it went; None when it changed while it was being copied to another file system, and so stayed. Raises
    OSError when it cannot be moved; it then stays as well.
    """
    make_folder(into.parent)
    for place in _places(into):
        # Taking the name first, empty, makes the rename below one that replaces nothing of anybody else's; a rename
        # that refuses to replace exists on few file systems. A crash in between leaves that empty file.
        try:
            place.touch(exist_ok=False)
        except FileExistsError:
            continue
        try:
            if _move(file, place):
                return place
        except BaseException:
            place.unlink(missing_ok=True)
            raise
        place.unlink(missing_ok=True)
        return None
    raise AssertionError("unreachable: numbers do not end")


def _places(path: Path) -> Iterator[Path]:
    yield path
    for number in count(1):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _move(file: Path, place: Path) -> bool:
    try:
        file.replace(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return _move_across(file, place)
    return True


def _move_across(file: Path, place: Path) -> bool:
    """Move to another file system: whoever looks at `place` sees the whole file or the empty one."""
    before = file.lstat()
    copy = place.with_name(f".{place.name}.part")
    try:
        shutil.copy2(file, copy, follow_symlinks=False)
        with copy.open("rb") as written:
            os.fsync(written.fileno())
        after = file.lstat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            return False
        copy.replace(place)
    finally:
        copy.unlink(missing_ok=True)
    file.unlink()
    return True
