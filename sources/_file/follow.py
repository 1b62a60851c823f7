"""Follow: when to look where: at once where a hint points, everywhere at the start and with each scan.

What the scans find is the truth; hints only make it known sooner. So nothing is lost when hints are, when Redis is
away, or when this process was not running.
"""

from __future__ import annotations

import os
import stat as modes
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from broker.errors import QueueFull, StoreUnavailable
from broker.source import SourceContext

if TYPE_CHECKING:
    from sources._file.done import Away
    from sources._file.examine import Examiner
    from sources._file.folder import Folder
    from sources._file.hints import Hint, Hints

IDLE_TICK, TICK, FAST_TICK = 2.0, 0.2, 0.1
"""Seconds between two looks at what gives no hints: the folder itself; ended events, while some are owed; files that
wait."""

PATIENCE = 0.7
"""Seconds to wait for a hint before looking whether to stop, which has to happen within a second."""

REPLAY_TICK = 5.0
"""Seconds between two looks at ended events while none is owed: one that was replayed ends a second time."""

CHUNK = 1000
"""How many files a scan compares with the journal at once."""

SHARE = 100
"""A scan that finds nothing is not repeated before this many times the processor time it took has passed: 1 percent."""

TIDY = 100
"""How many files are put away before others get their turn."""


class Follower:
    """One run of a file source."""

    def __init__(
        self,
        context: SourceContext,
        folder: Folder,
        examiner: Examiner,
        *,
        listen: Callable[[], Hints],
        away: Away | None,
        scan: float,
    ) -> None:
        """Take how to get hints, where ended files go (None: they stay), and the seconds between two scans."""
        self._context = context
        self._folder = folder
        self._examiner = examiner
        self._listen = listen
        self._away = away
        self._every = scan
        self._hints: Hints | None = None
        self._identity: tuple[int, int] | None = None
        self._missing = False
        self._outage = False
        self._surplus: int | None = None
        self._tick_due = self._scan_due = self._away_due = 0.0
        self._settled: int | None = None
        """How many events had been published when last none was owed."""

    def run(self) -> None:
        """Follow the folder until the context is stopping."""
        try:
            while not self._context.stopping.is_set():
                self._turn_safely()
        finally:
            self._lose_hints()

    def _turn_safely(self) -> None:
        try:
            self._turn()
        except (RedisError, StoreUnavailable, QueueFull) as error:
            if self._context.stopping.is_set():
                return  # what was being published is not in the journal, and is found by the next start's scan
            if not self._outage:
                self._outage = True
                self._context.log.warning("no file is published for now: %s", error)
            # Hints may have been dropped half-way.
            self._examiner.missed()
            self._scan_due = 0.0
            self._context.stopping.wait(TICK)
        else:
            if self._outage:
                self._outage = False
                self._context.log.info("files are published again")

    def _turn(self) -> None:
        now = time.monotonic()
        if now >= self._tick_due:
            self._look_at_root()
            self._tick_due = now + IDLE_TICK
            self._see_whether_settled()  # first: what has ended by then is put away at once
            if self._owed() or now >= self._away_due:
                self._away_due = now + REPLAY_TICK
                self._put_away()
            self._examiner.look_again()
        self._tick_due = min(self._tick_due, now + self._pace())
        if self._hints is None:
            self._context.stopping.wait(TICK)
            return
        if now >= self._scan_due:
            self._scan_all()
        due = min(self._tick_due, self._scan_due, time.monotonic() + PATIENCE)
        self._follow(self._hints.take(max(0, due - time.monotonic())))

    def _pace(self) -> float:
        """Return the seconds between two looks, as things are."""
        if self._examiner.waits():
            return FAST_TICK
        return TICK if self._owed() or self._hints is None else IDLE_TICK

    def _owed(self) -> bool:
        return self._away is not None and self._settled != self._examiner.published

    def _see_whether_settled(self) -> None:
        published = self._examiner.published
        if self._owed() and self._context.open() == 0:
            self._settled = published
            self._away_due = 0.0

    def _look_at_root(self) -> None:
        """See whether the watched folder is there, and the one it was."""
        identity, problem = self._root()
        if identity is None:
            if not self._missing:
                self._missing = True
                self._context.log.warning("%s cannot be watched: %s; waiting for it", self._folder.root, problem)
            self._lose_hints()
            return
        if self._missing:
            self._missing = False
            self._context.log.info("%s is there again", self._folder.root)
        if self._hints is None:
            self._hints = self._listen()
        if self._identity != identity:
            self._identity = identity
            self._scan_due = 0.0

    def _root(self) -> tuple[tuple[int, int] | None, str]:
        """Return device and inode of the watched folder; None, and why, when it is not there."""
        try:
            found = os.stat(self._folder.root)  # noqa: PTH116 -- a name may hold surrogates
        except OSError as error:
            return None, str(error)
        if not modes.S_ISDIR(found.st_mode):
            return None, "it is not a folder any more"
        return (found.st_dev, found.st_ino), ""

    def _lose_hints(self) -> None:
        if self._hints is not None:
            self._hints.close()
        self._hints = self._identity = None

    def _put_away(self) -> None:
        if self._away is None:
            return
        for number, ended in enumerate(self._context.ended()):
            # Left before the next one is asked for, so that the one just handled is not forgotten by a crash.
            if number == TIDY or self._context.stopping.is_set():
                self._tick_due = self._away_due = 0.0
                return
            self._away.put(ended)

    def _follow(self, hints: list[Hint]) -> None:
        paths: dict[str, None] = {}
        closed: set[str] = set()
        folders = []
        for kind, path in hints:
            if kind == "lost":
                self._examiner.missed()
                self._scan_due = 0.0
            elif kind == "left":
                # Nothing tells which files were in it: compare the journal with what is there.
                self._surplus = None
                self._scan_due = min(self._scan_due, time.monotonic() + 1)
            elif kind == "folder":
                folders.append(path)
            elif not self._folder.counts(path):
                continue
            elif kind in {"opened", "changed"}:
                self._examiner.made(path, opened=kind == "opened")
            else:
                paths[path] = None
                (closed.add if kind == "closed" else closed.discard)(path)
        if paths:
            self._examiner.examine(self._examiner.look(paths), closed=closed)
        for folder in folders:
            if self._folder.enters(folder):
                self._scan(folder)

    def _scan_all(self) -> None:
        """Compare everything with the journal."""
        began, published = time.thread_time(), self._examiner.published
        known, unchanged = self._scan("")
        if self._context.stopping.is_set():
            return
        self._sweep(known, trusted=unchanged > 0)
        wait = self._every
        if self._examiner.published == published:
            wait = max(wait, SHARE * (time.thread_time() - began))
        self._scan_due = time.monotonic() + wait

    def _scan(self, start: str) -> tuple[int, int]:
        """Compare what is below a folder with the journal; return how many files it knows, and how many unchanged."""
        known = unchanged = 0
        chunk: dict[str, os.stat_result | None] = {}
        for path, found in self._folder.walk(
            start, entering=self._enter, failed=self._fail, stopping=self._context.stopping.is_set
        ):
            chunk[path] = found
            if len(chunk) == CHUNK:
                seen = self._examiner.examine(chunk)
                known, unchanged = known + seen.known, unchanged + seen.unchanged
                chunk = {}
        seen = self._examiner.examine(chunk)
        return known + seen.known, unchanged + seen.unchanged

    def _enter(self, folder: str, found: os.stat_result) -> None:
        if self._hints is not None:
            self._hints.watch(folder, found)

    def _fail(self, path: str, error: OSError) -> None:
        # What vanished during the scan is nothing to complain about.
        if not isinstance(error, FileNotFoundError):
            self._examiner.refused(path, error)

    def _sweep(self, known: int, *, trusted: bool) -> None:
        """Find the files in the journal that are gone.

        The journal is read only when it holds another number of paths more than the folder has files than last time:
        those that do not count any more, say. A file that is missing together with its whole file system is not gone:
        its share is not mounted. That is so when no file is as the journal knows it, and the device is another one.
        """
        surplus = self._examiner.journal.count() - known
        if surplus == self._surplus or self._identity is None:
            return
        for page in self._examiner.journal.pages():
            if self._context.stopping.is_set():
                return
            gone = {
                path: mark
                for path, mark in page.items()
                if (trusted or mark.device == self._identity[0]) and self._is_gone(path)
            }
            if self._root()[0] != self._identity:
                return  # the folder itself went away meanwhile, which is why its files were not there
            self._examiner.vanished(gone)
            surplus -= len(gone)
        self._surplus = surplus

    def _is_gone(self, path: str) -> bool:
        try:
            return self._folder.stat(path) is None
        except OSError:
            return False  # not to be known; the scan has said so of the folder it is in
