"""Hints from Linux: inotify(7), one watch for each folder, one reader for all file sources of a process.

The reader is watchdog's. Its Observer is not used here: that one holds a file which is moved away back for half a
second, and everything behind it too, and keeps to itself that the kernel's queue overflowed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask

from sources._file.hints import Hint, Hints

if TYPE_CHECKING:
    import logging

_MASK = Mask(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVE
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
)
_SELF_GONE = InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_IGNORED
_CAME = InotifyConstants.IN_CREATE | InotifyConstants.IN_MOVED_TO
_COMPLETE = InotifyConstants.IN_CLOSE_WRITE | InotifyConstants.IN_MOVED_TO
_WENT = InotifyConstants.IN_DELETE | InotifyConstants.IN_MOVED_FROM


def start_reader() -> InotifyFD:
    """Return a running inotify reader. Raises OSError when the system has no more inotify instances to give."""
    reader = InotifyFD()
    reader.start()
    return reader


class _Watch:
    """One watched folder, as the inotify reader calls it back from its thread."""

    def __init__(self, folder: str, identity: tuple[int, int], hear: Callable[[object], None]) -> None:
        self.folder = folder
        self.identity = identity
        self.descriptor: Any = None
        self.live = True
        self._hear = hear

    def on_event(self, event: InotifyEvent) -> None:
        self._hear((self, event.mask, event.name))

    def on_watch_deleted(self, wd: int) -> None:
        del wd
        self._hear((self, InotifyConstants.IN_IGNORED, b""))

    def on_queue_overflow(self) -> None:
        self._hear((self, InotifyConstants.IN_Q_OVERFLOW, b""))


class InotifyHints(Hints):
    """Hints from inotify(7), one watch a folder."""

    name = "inotify"

    def __init__(self, root: str, reader: InotifyFD, log: logging.Logger) -> None:
        super().__init__()
        self._root = root
        self._reader = reader
        self._log = log
        self._watches: dict[str, _Watch] = {}
        self._refused = False

    def watch(self, folder: str, stat: os.stat_result) -> None:
        identity = (stat.st_dev, stat.st_ino)
        known = self._watches.get(folder)
        if known and known.identity == identity:
            return
        self.forget(folder)
        watch = _Watch(folder, identity, self._hear)
        path = f"{self._root}/{folder}" if folder else self._root
        try:
            # The reader has no answer but -1 for a folder that may not be read; the scan complains about it.
            descriptor = self._reader.add_callback(os.fsencode(path), _MASK, watch, CallbackId(id(watch)))
        except FileNotFoundError:
            return
        except OSError as error:
            if not self._refused:
                self._refused = True
                self._log.warning("%s: %s; what happens there is found by scanning alone", path, error)
            return
        if descriptor != -1:
            watch.descriptor = descriptor
            self._watches[folder] = watch

    def forget(self, folder: str = "") -> None:
        below = f"{folder}/" if folder else ""
        for path in [path for path in self._watches if path == folder or path.startswith(below)]:
            watch = self._watches.pop(path)
            watch.live = False
            self._reader.remove_callbacks([(watch.descriptor, CallbackId(id(watch)))])

    def close(self) -> None:
        self.forget()

    def _read(self, heard: Any) -> Iterator[Hint]:
        watch, mask, name = heard
        if mask & InotifyConstants.IN_Q_OVERFLOW:
            self._lost = True
        elif not watch.live:
            return
        elif mask & _SELF_GONE:
            self.forget(watch.folder)
            if not watch.folder:
                self._lost = True
        else:
            path = os.fsdecode(name)
            path = f"{watch.folder}/{path}" if watch.folder else path
            if mask & InotifyConstants.IN_ISDIR:
                yield from self._read_folder(path, mask)
            else:
                yield Hint("closed" if mask & _COMPLETE else "gone" if mask & _WENT else "opened", path)

    def _read_folder(self, path: str, mask: int) -> Iterator[Hint]:
        if mask & _WENT:
            self.forget(path)
            yield Hint("left", path)
        elif mask & _CAME:
            yield Hint("folder", path)
