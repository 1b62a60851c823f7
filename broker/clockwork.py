"""Clockwork: one thread for all sources that work in steps, each stepped when it asked to be."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from broker.errors import BrokerError, QueueFull, StoreUnavailable

if TYPE_CHECKING:
    from threading import Event as Flag

    from broker.source import Steps

FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds before a source that failed is stepped again; they double up to the second."""


class _Member:
    """One source: how to begin it, and how it stands."""

    __slots__ = ("make", "name", "steps", "wait")

    def __init__(self, name: str, make: Callable[[], Steps]) -> None:
        self.name = name
        self.make = make
        self.steps: Steps | None = None
        """None until it has been started, and after it died."""
        self.wait = FIRST_WAIT


class Clockwork:
    """Steps its sources until told to stop. One that fails waits and is tried again; the others go on."""

    def __init__(self, sources: Mapping[str, Callable[[], Steps]], stopping: Flag) -> None:
        """Take how to begin each source, by name."""
        self._members = [_Member(name, make) for name, make in sources.items()]
        self._stopping = stopping
        self._away_for = 0.0

    def run(self) -> None:
        """Step them, the one that is due first, until `stopping` is set."""
        due = [(0.0, number) for number in range(len(self._members))]
        while due and not self._stopping.is_set():
            moment, number = due[0]
            if (rest := moment - time.monotonic()) > 0:
                self._stopping.wait(rest)
                continue
            try:
                rest = self._turn(self._members[number])
                self._away_for = 0.0
            except StoreUnavailable as error:
                self._pause(error)
            else:
                heapq.heapreplace(due, (time.monotonic() + rest, number))

    def _turn(self, member: _Member) -> float:
        """Step one source; return the seconds until it is due again."""
        log = logging.getLogger(f"broker.source.{member.name}")
        try:
            if member.steps is None:
                steps = member.make()
                rest = steps.start()
                member.steps = steps
            else:
                rest = member.steps.step()
                member.wait = FIRST_WAIT
        except StoreUnavailable:
            raise
        except QueueFull as error:
            log.warning("%s: %s; trying again in %.1f s", member.name, error, member.wait)
        except BrokerError as error:
            log.error("%s: %s; it starts again in %.1f s", member.name, error, member.wait)  # noqa: TRY400 -- says all
            member.steps = None
        except Exception:  # the border to a source, which may be anybody's code
            log.exception("%s died; it starts again in %.1f s", member.name, member.wait)
            member.steps = None
        else:
            return rest
        rest, member.wait = member.wait, min(LONGEST_WAIT, member.wait * 2)
        return rest

    def _pause(self, error: StoreUnavailable) -> None:
        """Wait for Redis: it is away for all of them, so one line says so."""
        if self._stopping.is_set():
            return
        self._away_for = min(LONGEST_WAIT, max(FIRST_WAIT, self._away_for * 2))
        logging.getLogger("broker.source").warning("%s; trying again in %.1f s", error, self._away_for)
        self._stopping.wait(self._away_for)
