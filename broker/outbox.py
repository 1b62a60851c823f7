"""Outbox: what a worker has to tell Redis: how attempts ended, what was printed, how long processors were busy.

It is told in groups, each in one step. What could not be told is kept and told again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from broker import logs
from broker.ledger import Ledger, Settlement

if TYPE_CHECKING:
    from broker.attempt import Attempt

log = logging.getLogger("broker.worker")

FLUSH_AFTER = 0.02
"""Seconds for which a printed line waits for company before it is written to its log stream."""

GROUP = 500
"""How many settlements go to Redis in one call: a bound on how long one script may hold the server."""


class Outbox:
    """What is to be told, in the order in which it happened."""

    def __init__(self, ledger: Ledger, worker: str) -> None:
        """Take the ledger that is told, and the worker's name."""
        self.settlements: list[Settlement] = []
        self._ledger = ledger
        self._worker = worker
        self._lines: dict[str, list[logs.Line]] = {}
        self._cpu: dict[str, int] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.settlements or self._lines or self._cpu)

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

    def tell(self) -> list[Settlement]:
        """Tell the next group; return its settlements. Raises StoreUnavailable, and then nothing is forgotten."""
        group = self.settlements[:GROUP]
        entries = [(name, entry) for name, lines in self._lines.items() for entry in logs.entries(lines)]
        answers = self._ledger.settle(self._worker, group, entries, self._cpu)
        self._lines.clear()
        self._cpu.clear()
        del self.settlements[: len(group)]
        for settlement, written in zip(group, answers, strict=True):
            if not written:
                log.warning("%s: not settled: its lease had passed to another, or it was cancelled", settlement.id)
        return group
