"""Clockwork: one thread for all sources that work in steps, each stepped when it asked to be.

A step yields an errand wherever it would wait for Redis. The errands of all steps under way are carried out together,
so that a thousand ticks that fall due at once take a few round trips, and a step with many errands holds up no other.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from broker.errors import BrokerError, QueueFull, StoreUnavailable
from broker.source import Publish

if TYPE_CHECKING:
    from threading import Event as Flag

    from broker.source import Errand, Steps, Work

FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds before a source that failed is stepped again; they double up to the second."""

GROUP = 500
"""No step begins while so many events and commands are to be carried out: those due next would wait for all of them."""

TOGETHER = 0.003
"""Seconds from one look at what is due to the next, at the least: what falls due meanwhile goes together."""

LOOK = 2.0
"""Seconds between two looks at whether the clock was set."""

TOLERANCE = 0.005
"""By how many seconds it may be off since all were stepped; a clock that is slewed may be once a minute."""


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

    def __init__(
        self,
        sources: Mapping[str, Callable[[], Steps]],
        carry_out: Callable[[Sequence[Errand]], Sequence[Any]],
        stopping: Flag,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take how to begin each source, by name; `carry_out` returns the answer to each errand, or its error.

        `clock` returns the Unix time that sources go by, which somebody may set.
        """
        self._members = [_Member(name, make) for name, make in sources.items()]
        self._carry_out = carry_out
        self._stopping = stopping
        self._clock = clock
        self._ahead = clock() - time.monotonic()
        self._clock_at = 0.0
        self._due = [(0.0, number) for number in range(len(self._members))]
        """A heap: when each source is to be stepped that is not under way."""
        self._under_way: list[tuple[int, Work[float], Errand]] = []
        self._looked = 0.0
        self._away: StoreUnavailable | None = None
        self._away_for = 0.0

    def run(self) -> None:
        """Step them, the one that is due first, until `stopping` is set; what is under way then is completed."""
        while self._under_way or not self._stopping.is_set():
            self._watch_clock()
            if not self._stopping.is_set() and time.monotonic() >= self._looked + TOGETHER:
                self._begin_due()
            if self._under_way:
                self._go_on()
            if self._away:
                self._pause(self._away)
                self._away = None
                continue
            self._away_for = 0.0
            if not self._under_way:
                begin = max(self._due[0][0], self._looked + TOGETHER)
                self._stopping.wait(max(0.0, min(begin, self._clock_at) - time.monotonic()))

    def _watch_clock(self) -> None:
        """Have all stepped when the clock was set, or the machine has slept: how long they rest was reckoned before.

        So they need not get up every few seconds to see for themselves; ten thousand of them took 1.5 % of a core.
        """
        now = time.monotonic()
        if now < self._clock_at:
            return
        self._clock_at = now + LOOK
        ahead = self._clock() - now
        if (
            abs(ahead - self._ahead) > TOLERANCE > time.monotonic() - now
        ):  # else we were kept from looking twice at once
            self._ahead = ahead
            self._due = sorted((0.0, number) for _, number in self._due)

    def _begin_due(self) -> None:
        """Begin the steps of the sources that are due."""
        now = self._looked = time.monotonic()
        size = sum(_size(errand) for *_, errand in self._under_way)
        while self._due and self._due[0][0] <= now and size < GROUP and not self._away:
            _, number = heapq.heappop(self._due)
            errand = self._resume(number, self._turn(self._members[number]), None)
            size += 1 if errand is None else _size(errand)

    def _go_on(self) -> None:
        """Carry out what all steps under way ask for."""
        under_way, self._under_way = self._under_way, []
        answers = self._carry_out([errand for *_, errand in under_way])
        for (number, work, _), answer in zip(under_way, answers, strict=True):
            self._resume(number, work, answer)

    def _resume(self, number: int, work: Work[float], answer: Any) -> Errand | None:
        """Let a step go on until its next errand, which is returned, or to its end."""
        try:
            errand = work.throw(answer) if isinstance(answer, Exception) else work.send(answer)
        except StopIteration as end:
            heapq.heappush(self._due, (time.monotonic() + end.value, number))
            return None
        self._under_way.append((number, work, errand))
        return errand

    def _turn(self, member: _Member) -> Work[float]:
        """Step one source; return the seconds until it is due again, whatever happens."""
        try:
            if member.steps is None:
                steps = member.make()
                rest = yield from steps.start()
                member.steps = steps
            else:
                rest = yield from member.steps.step()
                member.wait = FIRST_WAIT
        except StoreUnavailable as error:
            self._away = error
            return 0.0
        except QueueFull as error:
            _log(member).warning("%s: %s; trying again in %.1f s", member.name, error, member.wait)
        except BrokerError as error:
            _log(member).error("%s: %s; it starts again in %.1f s", member.name, error, member.wait)
            member.steps = None
        except Exception:  # noqa: BLE001 -- the border to a source, which may be anybody's code
            _log(member).exception("%s died; it starts again in %.1f s", member.name, member.wait)
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


def _log(member: _Member) -> logging.Logger:
    return logging.getLogger(f"broker.source.{member.name}")


def _size(errand: Errand) -> int:
    return len(errand.events) if isinstance(errand, Publish) else 1
