"""Bell: waits until one of several lists in Redis holds something, and takes nothing.

RQ's clients push without a PUBLISH. BLPOP over several lists would take an id, and lose it with whoever took it;
BLMOVE, which keeps it safe, knows one list. So each list is moved onto itself, on a connection of its own: that
changes nothing, and is answered as soon as there is something.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    from redis import Redis

ANSWER_WITHIN = 15.0
"""Seconds after which the server answers in any case."""

PATIENCE = 5.0
"""Seconds more after which a silent connection is taken for dead."""


class Bell:
    """A set of lists to wait for."""

    def __init__(self, client: Redis, keys: Sequence[str]) -> None:
        """Take the keys of the lists; each gets a connection when it is first waited for."""
        self._client = client
        self._keys = keys
        self._selector = selectors.DefaultSelector()
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._reader, selectors.EVENT_READ)
        self._asked: dict[str, tuple[Any, float]] = {}
        """key -> the connection on which it is waited for, and the moment at which that was asked."""
        self._idle: dict[str, Any] = {}
        """key -> its connection, while nothing is asked on it."""

    def wait(self, seconds: float) -> None:
        """Return when a list holds something, when rung, or after so many seconds. Raises RedisError or OSError."""
        try:
            for key in self._keys:
                if key not in self._asked:
                    self._ask(key)
            ready = [entry.data for entry, _ in self._selector.select(seconds)]
            for key in ready:
                if key is None:
                    os.read(self._reader, 4096)
                else:
                    self._take(key)
            late = time.monotonic() - ANSWER_WITHIN - PATIENCE
            if not ready and any(since < late for _, since in self._asked.values()):
                raise redis.ConnectionError("the server does not answer")
        except (redis.RedisError, OSError):
            self._hang_up()
            raise

    def ring(self) -> None:
        """Let `wait` return; a signal handler may call it."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"\0")

    def _ask(self, key: str) -> None:
        connection = self._idle.pop(key, None) or self._client.connection_pool.get_connection()
        self._asked[key] = connection, time.monotonic()
        connection.send_command("BLMOVE", key, key, "LEFT", "LEFT", ANSWER_WITHIN)
        self._selector.register(_socket(connection), selectors.EVENT_READ, key)

    def _take(self, key: str) -> None:
        connection, _ = self._asked.pop(key)
        self._idle[key] = connection
        self._selector.unregister(_socket(connection))
        connection.read_response()

    def _hang_up(self) -> None:
        for connection in (*self._idle.values(), *(connection for connection, _ in self._asked.values())):
            with contextlib.suppress(KeyError, ValueError):  # it has no socket, or none that is watched
                self._selector.unregister(_socket(connection))
            connection.disconnect()
            self._client.connection_pool.release(connection)
        self._idle.clear()
        self._asked.clear()


def _socket(connection: Any) -> Any:
    return connection._sock  # noqa: SLF001 -- redis-py has no other way to wait for several answers
