"""Examine: decide what happened to files, from what is there and what the journal knows, and publish it.

A file is published when it is complete: nobody has it open for writing; where that cannot be known, it was closed after
writing or moved here, or has not changed for the `settle` time. Until then it waits, and is looked at again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from broker.event import Event
from broker.source import Publishing, SourceContext
from sources._file.event import Change, Fingerprint, file_event
from sources._file.folder import Folder
from sources._file.journal import Journal

GROUP = 500
"""How many events are published at once."""

SHORTEST = 0.1
"""Seconds between two looks at a file that waits, however short `settle` is."""

YOUNG = 1.0
"""Seconds since its last change during which one look is not enough to say that nobody writes a file: between making it
and opening it for writing, which are one call, there is a moment."""

PATIENCE = 3600
"""Seconds to wait for the close of a file that was seen being made but does not change; it may never be reported."""


class _Waiting(NamedTuple):
    """A file that is not complete. Times are monotonic."""

    size: int
    mtime: int
    since: float
    """Since when it has not changed."""
    due: float
    """When to look again."""
    opened: bool
    """It was seen being made, and its close was not seen."""


class Seen(NamedTuple):
    """What an examination found."""

    known: int
    """How many of the paths the journal knows now."""
    unchanged: int
    """How many are as the journal knew them before."""


class Examiner:
    """The files of one source: what is said about them, and those that wait."""

    def __init__(
        self, context: SourceContext, folder: Folder, *, settle: float, wanted: Collection[Change], track: bool
    ) -> None:
        """Take the changes that are `wanted` as events; with `track` the ledger reports when an event has ended."""
        self.journal = Journal(context.redis, context.prefix)
        self.published = 0
        """How many events were published."""
        self._context = context
        self._folder = folder
        self._settle = settle
        self._wanted = frozenset(wanted)
        self._how = Publishing(track=track)
        self._waiting: dict[str, _Waiting] = {}
        self._refused: set[str] = set()

    def examine(self, found: Mapping[str, os.stat_result | None], *, closed: Collection[str] = ()) -> Seen:
        """Publish what is new about these paths; None stands for a file that is not there.

        Of those in `closed` it was just heard that they were closed after writing, or moved here.
        """
        known = unchanged = 0
        fresh: dict[str, tuple[Fingerprint, Change]] = {}
        gone: dict[str, Fingerprint] = {}
        for (path, stat), before in zip(found.items(), self.journal.marks(list(found)), strict=True):
            waited = self._waiting.pop(path, None)
            if stat is None:
                if before:
                    gone[path] = before
                continue
            mark = Fingerprint.of(stat)
            if before and before.same_content(mark, inodes=not self._folder.remote):
                known, unchanged = known + 1, unchanged + 1
            elif self._is_complete(path, stat, waited, closed=path in closed):
                known += 1
                fresh[path] = (mark, "modified" if before else "created")
            else:
                known += before is not None
        self._publish(fresh)
        self.vanished(gone)
        return Seen(known, unchanged)

    def vanished(self, gone: Mapping[str, Fingerprint]) -> None:
        """Publish that files are gone, and forget them."""
        now = datetime.now(UTC)
        for group in _groups(gone):
            if "deleted" in self._wanted:
                self._send([self._event(path, gone[path], "deleted", now) for path in group], Publishing())
            self.journal.forget(group)

    def made(self, path: str, *, opened: bool) -> None:
        """Take note of a file that was made or changed; it waits. With `opened`, its close will be heard."""
        if opened or path not in self._waiting:
            now = time.monotonic()
            self._waiting[path] = _Waiting(-1, -1, now, now + max(self._settle, SHORTEST), opened)

    def missed(self) -> None:
        """Take note that hints were lost: a close that is waited for may have been among them."""
        self._waiting = {path: waiting._replace(opened=False) for path, waiting in self._waiting.items()}

    def waits(self) -> bool:
        """Say whether there are files to be looked at again."""
        return bool(self._waiting)

    def look_again(self) -> None:
        """Look at the files that have waited long enough."""
        now = time.monotonic()
        due = [path for path, waiting in self._waiting.items() if waiting.due <= now]
        for start in range(0, len(due), GROUP):
            if self._context.stopping.is_set():
                return
            self.examine(self.look(due[start : start + GROUP]))

    def look(self, paths: Collection[str]) -> dict[str, os.stat_result | None]:
        """Return what is at these paths; those that cannot be looked at are left out, and do not wait any more."""
        found = {}
        for path in paths:
            try:
                found[path] = self._folder.stat(path)
            except OSError as error:
                self._waiting.pop(path, None)
                self.refused(path, error)
        return found

    def refused(self, path: str, reason: object) -> None:
        """Log, once, that a path cannot be looked at; it is tried again with each scan."""
        if path not in self._refused and len(self._refused) < GROUP:
            self._refused.add(path)
            self._context.log.warning("%s: %s; it is tried again with each scan", self._folder.path(path), reason)

    def _is_complete(self, path: str, stat: os.stat_result, waited: _Waiting | None, *, closed: bool) -> bool:
        try:
            writing = self._folder.writing(path)
        except OSError:
            return False  # it vanished between two looks; a hint or the next scan tells the rest
        if writing == "unreadable":
            self.refused(path, "permission denied")
            return False
        now = time.monotonic()
        same = waited is not None and (waited.size, waited.mtime) == (stat.st_size, stat.st_mtime_ns)
        since = waited.since if waited is not None and same and writing != "yes" else now
        # A link to an existing file is made without anybody opening it.
        opened = waited is not None and waited.opened and not closed and stat.st_nlink == 1
        if writing == "no":
            pause = SHORTEST
            enough = self._settle if opened else SHORTEST if time.time() - stat.st_ctime < YOUNG else 0
        else:
            pause = max(self._settle, SHORTEST)
            enough = PATIENCE if opened else self._settle
        if closed:
            enough = 0
        if writing != "yes" and now - since >= enough and self._is_as_seen(path, stat):
            return True
        self._waiting[path] = _Waiting(stat.st_size, stat.st_mtime_ns, since, now + pause, opened)
        return False

    def _is_as_seen(self, path: str, stat: os.stat_result) -> bool:
        """Whether it is as it was before nobody wrote it: its writer may have ended just between these two looks."""
        try:
            now = self._folder.stat(path)
        except OSError:
            return False
        return now is not None and (now.st_size, now.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)

    def _publish(self, fresh: Mapping[str, tuple[Fingerprint, Change]]) -> None:
        now = datetime.now(UTC)
        for group in _groups(fresh):
            self._send(
                [self._event(path, *fresh[path], now) for path in group if fresh[path][1] in self._wanted], self._how
            )
            # Only now: what is in the journal is not published again.
            self.journal.note({path: fresh[path][0] for path in group})
            self._refused.difference_update(group)

    def _send(self, events: list[Event], how: Publishing) -> None:
        if events:
            self._context.publish(events, how)
            self.published += len(events)

    def _event(self, path: str, mark: Fingerprint, change: Change, now: datetime) -> Event:
        return file_event(self._context.name, self._folder.root, path, mark, change, now=now)


def _groups(paths: Mapping[str, object]) -> Iterator[list[str]]:
    all_ = list(paths)
    for start in range(0, len(all_), GROUP):
        yield all_[start : start + GROUP]
