"""Listen: get the hints that this system gives for a folder; inotify on Linux, elsewhere watchdog's Observer."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from watchdog.events import EVENT_TYPE_CREATED, EVENT_TYPE_DELETED, EVENT_TYPE_MODIFIED, EVENT_TYPE_MOVED

from sources._file.hints import Hint, Hints, Kind

if sys.platform == "linux":
    from sources._file.inotify import InotifyHints, start_reader
else:
    from watchdog.observers import Observer

if TYPE_CHECKING:
    import logging

    from watchdog.events import FileSystemEvent

Share = Callable[[object, Callable[[], Any]], Any]


def listen(
    root: str, *, recursive: bool, share: Callable[[object, Callable[[], Any]], Any], log: logging.Logger
) -> Hints:
    """Return this system's hints for a folder, or hints that never come when the system has none left to give.

    `share` returns the process's one object of a key, as SourceContext.share does.
    """
    try:
        if sys.platform == "linux":
            return InotifyHints(root, share("sources.file: inotify", start_reader), log)
        else:  # noqa: RET505 -- mypy sees that only one of the two exists
            return ObserverHints(root, Observer(), recursive=recursive)
    except OSError as error:
        log.warning("%s: %s; it is scanned only", root, error)
        return Hints()


class ObserverHints(Hints):
    """Hints from watchdog's Observer for this system: FSEvents, kqueue. Nothing tells that a file was closed."""

    def __init__(self, root: str, observer: Any, *, recursive: bool) -> None:
        """Take an observer that has not been started."""
        super().__init__()
        self.name = type(observer).__name__.removesuffix("Observer").lower()
        self._root = root
        self._observer = observer
        self._observer.schedule(self, root, recursive=recursive)
        self._observer.start()

    def close(self) -> None:
        self._observer.stop()
        self._observer.join()

    def dispatch(self, event: FileSystemEvent) -> None:
        """Take an event in the observer's thread; the name is what the observer calls."""
        self._hear(event)

    def _read(self, heard: Any) -> Iterator[Hint]:
        if heard.event_type in {EVENT_TYPE_DELETED, EVENT_TYPE_MOVED}:
            yield from self._hint("left" if heard.is_directory else "gone", heard.src_path)
        if heard.event_type == EVENT_TYPE_MOVED:
            yield from self._hint("folder" if heard.is_directory else "changed", heard.dest_path)
        elif heard.event_type == EVENT_TYPE_CREATED:
            yield from self._hint("folder" if heard.is_directory else "changed", heard.src_path)
        elif heard.event_type == EVENT_TYPE_MODIFIED and not heard.is_directory:
            yield from self._hint("changed", heard.src_path)

    def _hint(self, kind: Kind, path: str | bytes) -> Iterator[Hint]:
        absolute = os.fsdecode(path)
        if absolute == self._root:
            yield Hint("lost", "")
        elif absolute.startswith(f"{self._root}/"):
            yield Hint(kind, absolute[len(self._root) + 1 :])
