"""Outbox: what a worker has to tell Redis: how attempts ended, what was printed, how long processors were busy.

It is told in groups, each in one step. What could not be told is kept and told again.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from broker import logs
from broker.ledger import Ledger, Settlement, calls
from broker.ledger.calls import NOTHING, Call

if TYPE_CHECKING:
    from broker.attempt import Attempt

log = logging.getLogger("broker.worker")

FLUSH_AFTER = 0.02
"""Seconds for which a printed line waits for company before it is written to its log stream."""

GROUP = 500
"""How many ends go to Redis in one call, unless a batch has more: a bound on how long a script may hold the server."""

MOST_ENTRIES = 64
"""How many entries of log lines go to Redis in one call, for the same reason: about 1 MB."""

MOST_KEPT = 32 << 20
"""Bytes of log lines that are kept while Redis is away; what comes after is lost."""


class _Telling(NamedTuple):
    """Log lines and processor time that are told together, and again under the same number until it is answered."""

    number: int
    entries: Sequence[tuple[str, bytes]]
    cpu: Mapping[str, int]


_NOTHING = _Telling(0, (), NOTHING)


class Outbox:
    """What is to be told, in the order in which it happened."""

    def __init__(self, ledger: Ledger, worker: str) -> None:
        """Take the ledger that is told, and the worker's name."""
        self.settlements: list[Settlement] = []
        self._ledger = ledger
        self._worker = worker
        self._lines: dict[str, list[logs.Line]] = {}
        self._entries: list[tuple[str, bytes]] = []
        """Those of lines that were too many for one call, or could not be told."""
        self._cpu: dict[str, int] = {}
        self._numbers = itertools.count(time.time_ns())  # no worker that had this name before has used them
        self._telling: _Telling | None = None
        self._told = 0
        """How many settlements are told."""

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.settlements or self._lines or self._cpu or self._telling or self._entries)

    def add_lines(self, attempt: Attempt) -> None:
        """Take what an attempt has printed and was not taken yet."""
        self._lines.setdefault(attempt.function.name, []).extend(attempt.take_lines())

    def add_cpu(self, function: str, microseconds: int) -> None:
        """Take processor time that a function has used."""
        if microseconds:
            self._cpu[function] = self._cpu.get(function, 0) + microseconds

    def gather_lines(self, running: Iterable[Attempt], now: float) -> None:
        """Take what attempts that still run have printed a moment ago."""
        for attempt in running:
            if attempt.unflushed_since is not None and now - attempt.unflushed_since >= FLUSH_AFTER:
                self.add_lines(attempt)

    def tell(self) -> Call[list[bool]]:
        """Return the call that tells the next group; `answered` or `lost` says what became of it."""
        if self._telling is None and (self._lines or self._cpu or self._entries):
            self._telling = self._next_telling()
        number, entries, cpu = self._telling or _NOTHING
        group, kept = self._next_group(), self._ledger.log_entries
        self._told = len(group)
        return calls.settle(self._worker, group, entries, cpu, telling=number, log_entries=kept)

    def answered(self, written: Sequence[bool]) -> list[Settlement]:
        """Forget what was told; return its settlements."""
        self._telling = None
        group = self.settlements[: self._told]
        del self.settlements[: self._told]
        if not all(written):
            ids = itertools.chain.from_iterable(one.ids for one in group)
            for id_ in itertools.compress(ids, (not one for one in written)):
                log.warning("%s: not settled: its lease had passed to another, or it was cancelled", id_)
        return group

    def lost(self) -> None:
        """Note that there may be no answer; the same is told again, and of what is printed meanwhile some is kept."""
        self._encode()
        sizes = itertools.accumulate(len(entry) for _, entry in self._entries)
        if (kept := sum(size <= MOST_KEPT for size in sizes)) < len(self._entries):
            del self._entries[kept:]
            log.warning("log lines are lost: more than %d MB wait for Redis", MOST_KEPT >> 20)

    def _next_group(self) -> list[Settlement]:
        group = self.settlements[:GROUP]
        sizes = itertools.accumulate(len(one.others) for one in group)
        return group[: sum(position + size < GROUP for position, size in enumerate(sizes))] or group[:1]

    def _next_telling(self) -> _Telling:
        self._encode()
        entries, self._entries = self._entries[:MOST_ENTRIES], self._entries[MOST_ENTRIES:]
        cpu, self._cpu = self._cpu, {}
        return _Telling(next(self._numbers), entries, cpu)

    def _encode(self) -> None:
        for name, lines in self._lines.items():
            self._entries += [(name, entry) for entry in logs.entries(lines)]
        self._lines.clear()
