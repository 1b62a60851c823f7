"""Bridge: from futures that other threads finish to the event loop that waits for them."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Released(Exception):
    """The source stops; what was waited for has not come."""


class Bridge:
    """Brings what other threads finish to the event loop, with one wake-up for all that finish together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the loop on which `result` is awaited."""
        self._loop = loop
        self._finished: deque[asyncio.Future[None]] = deque()
        self._waking = False
        self._waiting: set[asyncio.Future[None]] = set()

    async def result(self, future: Future[T], within: float) -> T:
        """Return the future's result, or raise its error; TimeoutError after `within` seconds, Released on release."""
        if not future.done():
            waiter = self._loop.create_future()
            self._waiting.add(waiter)
            timer = self._loop.call_later(within, _fail, waiter, TimeoutError())
            future.add_done_callback(partial(self._finish, waiter))
            try:
                await waiter
            finally:
                timer.cancel()
                self._waiting.discard(waiter)
        return future.result()

    def release(self) -> None:
        """Let all that wait raise Released; call it on the loop."""
        for waiter in self._waiting:
            _fail(waiter, Released())

    def _finish(self, waiter: asyncio.Future[None], _: Future[Any]) -> None:
        self._finished.append(waiter)
        # Two threads may both find it False, and wake the loop twice; never may both find it True after the last drain.
        if not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._waking = False
        while self._finished:
            waiter = self._finished.popleft()
            if not waiter.done():
                waiter.set_result(None)


def _fail(waiter: asyncio.Future[None], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
