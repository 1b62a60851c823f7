"""Strays: what Redis has leased to a worker without its knowing, because the telling of it was lost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.ledger import Settlement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.worker.claiming import Claiming
    from broker.worker.hand_over import HandOver
    from broker.worker.parts import Parts

log = logging.getLogger("broker.worker")

LOOK_EVERY = 3.0
"""Seconds between looks."""


class Strays:
    """Those of one worker."""

    def __init__(self, parts: Parts, claiming: Claiming, hand_over: HandOver) -> None:
        """Take a worker's parts, which say what it knows of, and what it may hear of yet."""
        self._name = parts.name
        self._ledger = parts.ledger
        self._pool = parts.pool
        self._outbox = parts.outbox
        self._claiming = claiming
        self._hand_over = hand_over
        self._look_at = 0.0

    def soon(self) -> None:
        """Look at the next beat."""
        self._look_at = 0.0

    def give_back(self, queues: Iterable[str], now: float) -> None:
        """Give them back, if it is time to look. Raises StoreUnavailable.

        What was handed over may be told at this moment; it is given back all the same, and not begun when it is heard.
        """
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY
        known = {(one.id, one.execution) for attempt in self._pool.attempts() for one in attempt.claimed}
        known.update((id_, one.execution) for one in self._outbox.settlements for id_ in one.ids)
        strays = [
            Settlement(verdict="release", queue=queue, id=id_, execution=execution)
            for queue, id_, execution in self._ledger.held_by(self._name, sorted(queues))
            if (id_, execution) not in known and not self._claiming.is_coming(execution)
        ]
        if strays:
            log.warning("%d given back: they were leased to this worker, and it was not told", len(strays))
            self._hand_over.refuse(one.execution for one in strays)
            self._outbox.settlements += strays
