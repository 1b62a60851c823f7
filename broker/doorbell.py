"""Doorbell: a thread that hears what is said on channels of Redis' publish/subscribe."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING

import redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

MISSED = ""
"""The channel told after a gap: something may have been said meanwhile."""

PATIENCE = 5.0
"""Seconds of silence after which the connection is looked at."""

FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0
"""Seconds between tries to subscribe while Redis is away."""


class Doorbell:
    """Messages of some channels, handed to a function, or readable in a selector loop (`fileno`, `heard`)."""

    def __init__(
        self, client: redis.Redis, channels: Sequence[str], on_message: Callable[[str, bytes], None] | None = None
    ) -> None:
        """Subscribe in a thread of its own, again and again while Redis is away.

        `on_message(channel, data)` is called in that thread; without it, messages are kept for `heard`.
        """
        self._client = client
        self._channels = channels
        self._heard: deque[tuple[str, bytes]] = deque()
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._on_message = on_message or self._ring
        self._stopping = threading.Event()
        self._listening = threading.Event()
        self._ears: redis.client.PubSub | None = None
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Return the file that is readable while something was heard."""
        return self._reader

    def heard(self) -> Iterator[tuple[str, bytes]]:
        """Yield (channel, data) of what was said; (MISSED, b"") when something may have been missed."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 1 << 16)
        while self._heard:
            yield self._heard.popleft()

    def wait_until_listening(self, within: float) -> bool:
        """Return True once the subscription stands: what is said from then on is heard."""
        return self._listening.wait(within)

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        while self._thread.is_alive():
            line = getattr(self._ears and self._ears.connection, "_sock", None)
            if line is not None:
                with contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)  # the thread, which waits for it, wakes
            self._thread.join(0.05)  # it may just have been connecting
        os.close(self._writer)
        os.close(self._reader)

    def _run(self) -> None:
        wait = FIRST_WAIT
        while not self._stopping.is_set():
            try:
                with self._client.pubsub() as ears:  # type: ignore[no-untyped-call]
                    ears.subscribe(*self._channels)
                    self._ears = ears
                    while not self._stopping.is_set():
                        message = ears.get_message(timeout=PATIENCE)
                        if message is not None:
                            self._take(message)
                            wait = FIRST_WAIT
            except (redis.RedisError, OSError) as error:
                log.debug("not listening: %s", error)
                self._listening.clear()
                self._stopping.wait(wait)
                wait = min(LONGEST_WAIT, wait * 2)

    def _take(self, message: dict[str, object]) -> None:
        if message["type"] == "subscribe":
            self._listening.set()
            self._on_message(MISSED, b"")
        elif message["type"] == "message":
            channel, data = message["channel"], message["data"]
            if isinstance(channel, bytes) and isinstance(data, bytes):
                self._on_message(channel.decode(), data)

    def _ring(self, channel: str, data: bytes) -> None:
        self._heard.append((channel, data))
        with contextlib.suppress(BlockingIOError):  # full of rings nobody has read yet: one more says nothing new
            os.write(self._writer, b"\0")
