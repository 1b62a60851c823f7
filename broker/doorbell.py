"""Doorbell: hear what is said on channels of Redis' publish/subscribe, in a loop of one's own or in a thread."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import hiredis
import redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

MISSED = ""
"""The channel told after a gap: something may have been said meanwhile."""

PATIENCE = 5.0
"""Seconds of silence after which the connection is looked at."""

_RECEIVE = 64 << 10

_NOTHING_YET = (BlockingIOError, ssl.SSLWantReadError)

FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0
"""Seconds between tries to subscribe while Redis is away."""


def connection_like(client: redis.Redis) -> Any:
    """Return a new connection with a client's settings, not connected yet.

    It is none of the client's pool: a pool counts what `make_connection` has made, and makes no more after a hundred.
    """
    pool = client.connection_pool
    return pool.connection_class(**pool.connection_kwargs)


class Subscription:
    """One connection that listens to channels, for a selector loop: `fileno` is readable while something was said.

    redis-py connects it; what comes is read here, because its own way takes ten times as long, and a worker that is
    told of an event has nothing better to do than to begin. Every method but `close` raises redis.RedisError or OSError
    when Redis is away; then it is to be closed.
    """

    def __init__(self, client: redis.Redis, channels: Sequence[str]) -> None:
        """Subscribe."""
        self._connection = connection_like(client)
        self._reader = hiredis.Reader()
        self._is_asked = False
        try:
            self._connection.connect()
            self._connection.send_command("SUBSCRIBE", *channels)
            self._line: socket.socket = self._connection._sock  # noqa: SLF001 -- redis-py shows it in no other way
            self._line.setblocking(False)  # with a timeout each recv would ask first whether there is something
        except BaseException:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._line, select.POLLIN)

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._line.fileno()

    def heard(self, patience: float = 0) -> Iterator[tuple[str, bytes]]:
        """Yield (channel, data) of what was said; (MISSED, b"") once the subscription stands.

        Waits up to `patience` seconds for the first, and for no other. When nothing was said, not even an answer to
        the question whether anybody is there, the connection is dead.
        """
        if patience and not self._poll.poll(patience * 1000):
            self.ask()
            return
        try:
            data = self._line.recv(_RECEIVE)
        except _NOTHING_YET:
            return
        if not data:
            raise ConnectionError("the subscription's connection is closed")
        self._is_asked = False
        self._reader.feed(data)
        while (message := self._reader.gets()) is not False:
            if isinstance(message, Exception):
                raise ConnectionError(f"cannot subscribe: {message}")
            if message[0] == b"subscribe":
                yield MISSED, b""
            elif message[0] == b"message":
                yield message[1].decode(), message[2]

    def ask(self) -> None:
        """Ask whether anybody is there; to be called again after PATIENCE, and then something must have been heard."""
        if self._is_asked:
            raise ConnectionError("the subscription does not answer")
        self._connection.send_command("PING", check_health=False)  # that would read, and lose what was said
        self._is_asked = True

    def interrupt(self) -> None:
        """End the wait of another thread in `heard`, which then raises."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(redis.RedisError, OSError):
            self._connection.disconnect()


class Doorbell:
    """Messages of some channels, handed to a function in a thread that subscribes again while Redis is away."""

    def __init__(self, client: redis.Redis, channels: Sequence[str], on_message: Callable[[str, bytes], None]) -> None:
        """Start the thread, in which `on_message(channel, data)` is called."""
        self._client = client
        self._channels = channels
        self._on_message = on_message
        self._stopping = threading.Event()
        self._listening = threading.Event()
        self._subscription: Subscription | None = None
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self._thread.start()

    def wait_until_listening(self, within: float) -> bool:
        """Return True once the subscription stands: what is said from then on is heard."""
        return self._listening.wait(within)

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        while self._thread.is_alive():
            if self._subscription is not None:
                self._subscription.interrupt()
            self._thread.join(0.05)  # it may just have been connecting

    def _run(self) -> None:
        wait = FIRST_WAIT
        while not self._stopping.is_set():
            try:
                self._subscription = Subscription(self._client, self._channels)
                while not self._stopping.is_set():
                    for channel, data in self._subscription.heard(PATIENCE):
                        if channel == MISSED:
                            self._listening.set()
                        self._on_message(channel, data)
                        wait = FIRST_WAIT
            except (redis.RedisError, OSError) as error:
                log.debug("not listening: %s", error)
                self._listening.clear()
                self._stopping.wait(wait)
                wait = min(LONGEST_WAIT, wait * 2)
            finally:
                if self._subscription is not None:
                    self._subscription.close()
