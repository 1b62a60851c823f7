"""Endings: what environments say becomes log lines and, when an attempt has ended, settlements."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.outcome import conclude
from broker.runtime.messages import Died, Lines, Message, Ready

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.outcome import Follow
    from broker.runtime.crew import Place
    from broker.worker.parts import Parts

log = logging.getLogger("broker.worker")


class Endings:
    """Takes what the environments of one worker say."""

    def __init__(self, parts: Parts, follow: Follow) -> None:
        """Take a worker's parts, and what says what follows from an invocation's end."""
        self.count = 0
        """How many invocations' attempts have ended."""
        self._demand = parts.demand
        self._pool = parts.pool
        self._outbox = parts.outbox
        self._follow = follow

    def take(self, messages: Iterable[tuple[Place, Message]]) -> None:
        """Take what was said; what is to be told Redis is in the outbox then."""
        for place, message in messages:
            if isinstance(message, Lines):
                if (printing := self._pool.attempt_of(place, message)) is not None:
                    for line in message.lines:
                        printing.say(line.text, line.level, line.time_ms)
                continue
            attempt = self._pool.settle(place, message)
            if isinstance(message, Ready):
                continue
            self._outbox.add_cpu(place.environment.function.name, message.cpu_us)
            if attempt is None and isinstance(message, Died) and message.init:
                name = place.environment.function.name
                log.warning("%s: an environment that was to be kept warm died: %s", name, message.error)
            if attempt is not None:
                self.count += len(attempt.claimed)
                self._demand.hungry.add(attempt.function.name)
                self._outbox.settlements += conclude(attempt, message, self._follow)
                self._outbox.add_lines(attempt)
