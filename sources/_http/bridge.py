"""Bridge: from what other threads finish to the event loop that waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

LOOK = 0.1
"""Seconds between two looks at who has waited too long; a timer for each would cost more than its request."""


class Released(Exception):
    """The source stops; what was waited for has not come."""


class Bridge:
    """Brings what other threads finish to the event loop, with one wake-up for all that finish together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the loop on which `answer` and `result` are awaited."""
        self._loop = loop
        self._finished: deque[tuple[asyncio.Future[Any], Any]] = deque()
        self._waking = False
        self._waiting: dict[asyncio.Future[Any], float] = {}
        """Until when each of them waits."""
        self._looks = False

    async def answer(self, ask: Callable[[Callable[[T | Exception], object]], object], within: float) -> T:
        """Return what the function is called with that `ask` is given, in any thread; an exception is raised.

        TimeoutError is raised after `within` seconds, Released on release.
        """
        waiter: asyncio.Future[T] = self._loop.create_future()
        self._waiting[waiter] = self._loop.time() + within
        if not self._looks:
            self._looks = True
            self._loop.call_later(LOOK, self._look)
        try:
            ask(partial(self._finish, waiter))
            return await waiter
        finally:
            del self._waiting[waiter]

    async def result(self, future: Future[T], within: float) -> T:
        """Return the future's result, or raise its error; TimeoutError and Released as above."""
        return await self.answer(partial(_tell, future), within)

    def release(self) -> None:
        """Let all that wait raise Released; call it on the loop."""
        for waiter in self._waiting:
            _settle(waiter, Released())

    def _finish(self, waiter: asyncio.Future[T], answer: T | Exception) -> None:
        self._finished.append((waiter, answer))
        # Two threads may both find it False, and wake the loop twice; never may both find it True after the last drain.
        if not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._waking = False
        while self._finished:
            _settle(*self._finished.popleft())

    def _look(self) -> None:
        now = self._loop.time()
        for waiter, end in self._waiting.items():
            if end <= now:
                _settle(waiter, TimeoutError())
        self._looks = bool(self._waiting)
        if self._looks:
            self._loop.call_later(LOOK, self._look)


def _tell(future: Future[T], then: Callable[[T | Exception], object]) -> None:
    def tell(future: Future[T]) -> None:
        if not future.cancelled():
            error = future.exception()
            then(error if isinstance(error, Exception) else future.result())

    future.add_done_callback(tell)


def _settle(waiter: asyncio.Future[T], answer: T | Exception) -> None:
    if waiter.done():
        return
    if isinstance(answer, Exception):
        waiter.set_exception(answer)
    else:
        waiter.set_result(answer)
