"""Tail: read log streams back, in the order in which they were written, from a moment on and while they grow."""

from __future__ import annotations

import heapq
import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import redis

from broker.logs import Line, key

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

PAGE = 200
"""How many entries of a stream are read at once; each holds about 16 KB of text at the most."""

AWAY_WAIT = 0.5
"""Seconds between two looks while Redis is away."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_OTHER_NAMES = {"TRACE": "DEBUG", "NOTSET": "DEBUG", "WARN": "WARNING", "FATAL": "CRITICAL"}

_AWAY = (redis.ConnectionError, redis.TimeoutError)
_lines = msgspec.json.Decoder(list[Line])

Entry = tuple[tuple[int, int], str, bytes]
"""The entry's place in the order, its function, its lines as JSON."""


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """A line as it is read back."""

    function: str
    invocation: str
    attempt: int
    time_ms: int
    """Unix milliseconds."""
    level: str
    """As it was printed, or empty when the line says none."""
    text: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines are wanted; by default all."""

    invocation: str = ""
    """An invocation's id, or how it begins."""
    pattern: re.Pattern[str] | None = None
    """What the text must hold."""
    level: str = ""
    """The lowest of LEVELS that is wanted; then lines of no known level are not."""

    def lines(self, function: str, entry: bytes) -> Iterator[Logged]:
        """Yield the wanted lines of an entry."""
        if self.invocation and self.invocation.encode() not in entry:
            return  # the cheap look first: most entries are of others
        for line in _lines.decode(entry):
            if self._wants(line):
                yield Logged(
                    function=function,
                    invocation=line.invocation,
                    attempt=line.attempt,
                    time_ms=line.time_ms,
                    level=line.level,
                    text=line.text,
                )

    def _wants(self, line: Line) -> bool:
        return (
            line.invocation.startswith(self.invocation)
            and (not self.level or rank(line.level) >= rank(self.level))
            and (self.pattern is None or self.pattern.search(line.text) is not None)
        )


class Tail:
    """The log streams of some functions, read on from where the last read ended."""

    def __init__(
        self, client: Redis, functions: Iterable[str], *, since_ms: int = 0, wanted: Wanted | None = None
    ) -> None:
        """Begin at a Unix time in milliseconds."""
        self._client = client
        self._wanted = wanted or Wanted()
        self._cursors = dict.fromkeys(functions, f"{max(0, since_ms)}-0")

    def written(self) -> Iterator[Logged]:
        """Yield what is in the streams now. Raises redis' errors."""
        lasts = {function: self._last(function) for function in self._cursors}
        streams = [self._pages(function, last) for function, last in lasts.items() if last]
        for _, function, lines in heapq.merge(*streams):
            yield from self._wanted.lines(function, lines)

    def wait(self, seconds: float) -> list[Logged]:
        """Return what is written next, or nothing when that takes longer. Raises redis' errors."""
        names: Any = {key(function): cursor for function, cursor in self._cursors.items()}
        answer: Any = self._client.xread(names, count=PAGE, block=max(1, int(seconds * 1000)))
        streams = answer.items() if isinstance(answer, dict) else answer or []
        entries = []
        for stream, found in streams:
            function = stream.decode().removeprefix(key(""))
            # redis-py wraps the entries of a stream once more under RESP3
            rows = found[0] if found and isinstance(found[0], list) else found
            entries += self._take(function, rows)
        return [line for _, function, lines in sorted(entries) for line in self._wanted.lines(function, lines)]

    def follow(self, every: float = 1.0) -> Iterator[list[Logged]]:
        """Yield what is written from here on, for ever; nothing after `every` seconds without any. Waits for Redis."""
        away = False
        while True:
            try:
                lines = self.wait(every)
                away = False
            except _AWAY as error:
                if not away:
                    log.warning("Redis is away, waiting for it: %s", error)
                away = True
                time.sleep(AWAY_WAIT)
                lines = []
            yield lines

    def _last(self, function: str) -> str:
        rows: Any = self._client.xrevrange(key(function), count=1)
        return rows[0][0].decode() if rows else ""

    def _pages(self, function: str, last: str) -> Iterator[Entry]:
        while True:
            rows: Any = self._client.xrange(key(function), f"({self._cursors[function]}", last, count=PAGE)
            yield from self._take(function, rows)
            if len(rows) < PAGE:
                return

    def _take(self, function: str, rows: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[Entry]:
        if rows:
            self._cursors[function] = rows[-1][0].decode()
        return [(_order(id_), function, fields[b"l"]) for id_, fields in rows]


def read(client: Redis, functions: Iterable[str], *, since_ms: int = 0, invocation: str = "") -> Iterator[Logged]:
    """Yield the lines of functions since a Unix time in milliseconds, in the order in which they were written.

    `invocation` is an id, or how it begins. Raises redis' errors.
    """
    return Tail(client, functions, since_ms=since_ms, wanted=Wanted(invocation=invocation)).written()


def rank(level: str) -> int:
    """Return how grave a level is: 1 for DEBUG; 0 for what is none."""
    name = level.upper()
    name = _OTHER_NAMES.get(name, name)
    return LEVELS.index(name) + 1 if name in LEVELS else 0


def _order(entry: bytes) -> tuple[int, int]:
    time_ms, _, number = entry.partition(b"-")
    return int(time_ms), int(number)
