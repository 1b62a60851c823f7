"""Disk: what the embedded server's disk wants now and then: to be given what was written, and to be looked at."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from broker.store import flush, space

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.store.embedded import Server

EVERY = min(flush.EVERY, space.EVERY)
"""Seconds between two looks at it, in one go: what wakes costs more than what it does then."""

FLUSH_AGAIN = 10.0
"""Seconds until the next try after the disk has refused what Redis wrote."""


class Disk:
    """The disk of one server, tended from the supervisor's loop."""

    def __init__(self, server: Server, say: Callable[[str], None]) -> None:
        """Take the server, and what takes lines for people."""
        self.at = 0.0
        """The monotonic moment at which `tend` has something to do."""
        self._server = server
        self._say = say
        self._flush_at = 0.0

    def tend(self) -> None:
        """Look after it, if it is time to."""
        now = time.monotonic()
        if now < self.at:
            return
        self.at = now + EVERY
        with suppress(OSError):  # the server is just starting, or not there; the next look is soon
            if news := self._server.watch_space():
                self._say(news)
        if self._flush_at <= now:
            self._flush()

    def _flush(self) -> None:
        try:
            self._server.flush()
        except OSError as error:
            self._say(f"the disk does not keep what Redis has written: {error}")
            self._flush_at = time.monotonic() + FLUSH_AGAIN
