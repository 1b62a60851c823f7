"""Hints: what the system says just happened below a watched folder; early, and not to be relied on.

Here is what all kinds of hints share; as it stands it never gives any, and the scans find everything.
"""

from __future__ import annotations

from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

Kind = Literal["closed", "opened", "changed", "gone", "folder", "left", "lost"]

GROUP = 1000
"""How many hints are handed over at once."""

LIMIT = 50_000
"""How many hints may wait; when more come, for Redis is away, they are dropped for a scan of everything."""


class Hint(NamedTuple):
    """One hint: the path, and what seems to have happened there.

    `closed`: a file was closed after writing, or moved here. `opened`: a file was made, and `closed` will follow.
    `changed`: a file was made or written to, and nothing will say when it is closed. `gone`: a file was removed or
    moved away. `folder`: a folder has come. `left`: a folder is gone, with what is in it. `lost`: hints are missing, or
    the watched folder itself has changed.
    """

    kind: Kind
    path: str


class Hints:
    """No hints at all; and what the others share: the queue between the thread that hears and the one that asks."""

    name = "polled"

    def __init__(self) -> None:
        self._heard: SimpleQueue[Any] = SimpleQueue()
        self._lost = False

    def watch(self, folder: str, stat: os.stat_result) -> None:
        """Give hints about what is directly in this folder, from now on; again and again costs nothing."""

    def forget(self, folder: str = "") -> None:
        """Give no more hints about this folder and those below it."""

    def take(self, timeout: float) -> list[Hint]:
        """Return the hints that have come; wait for the first up to `timeout` seconds."""
        try:
            first = self._heard.get(timeout=timeout)
        except Empty:
            return []
        found = [hint for heard in (first, *islice(self._rest(), GROUP - 1)) for hint in self._read(heard)]
        if self._lost:
            self._lost = False
            self._drain()
            # Among what was lost may be that a watched folder went; the scan that follows watches each anew.
            self.forget()
            return [Hint("lost", "")]
        return found

    def close(self) -> None:
        """Stop hearing."""

    def _rest(self) -> Iterator[Any]:
        try:
            while True:
                yield self._heard.get_nowait()
        except Empty:
            return

    def _drain(self) -> None:
        for _ in islice(self._rest(), LIMIT):
            pass

    def _hear(self, heard: object) -> None:
        """Take what a listening thread says; bounded, for nobody may be asking for long."""
        if self._heard.qsize() < LIMIT:
            self._heard.put(heard)
        else:
            self._lost = True

    def _read(self, heard: Any) -> Iterator[Hint]:
        """Turn what was heard into hints, in the thread that asks."""
        yield heard
