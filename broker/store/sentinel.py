"""Sentinel: a client that follows the master that sentinels name, and leaves the one before when there is another.

A master that was replaced on purpose, or that stood still while it was, goes on for ten seconds: so long a sentinel
waits before it makes it a replica. It takes what its clients write, and then all of that is gone.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from weakref import ReferenceType, WeakSet, ref

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection

LOOK_EVERY = 0.5
"""Seconds between two looks at who is the master."""


class Master:
    """The master of a service, and the connections that are to lead to it."""

    def __init__(self, sentinels: Sentinel, service: str) -> None:
        """Take the sentinels; none is asked yet."""
        self._sentinels = sentinels
        self._service = service
        self._lines: WeakSet[Any] = WeakSet()
        self._lock = threading.Lock()

    def note(self, line: Any) -> None:
        """Hang up on this connection, too, when it leads to a server that is not the master any more."""
        with self._lock:
            self._lines.add(line)

    def look(self) -> None:
        """Ask who is the master, and hang up on everybody else. Whoever waits for an answer there waits no more."""
        try:
            address: tuple[str, int] = self._sentinels.discover_master(self._service)  # type: ignore[no-untyped-call]
        except (redis.RedisError, OSError):
            return  # nobody is known to be it: whoever is there may be as good
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            opened = line._sock  # noqa: SLF001 -- read before its address, which changes first; shown in no other way
            if opened is not None and (line.host, line.port) != address:
                with suppress(OSError):
                    socket.socket.shutdown(opened, socket.SHUT_RDWR)  # its thread closes it


class _Connection(SentinelManagedConnection):
    def __init__(self, *, master: Master, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        master.note(self)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._sock is None:
            # redis-py would go to the server that it had, without asking who is the master.
            self.connect()  # type: ignore[no-untyped-call]
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]


def client_of(url: str, options: Mapping[str, Any]) -> redis.Redis:
    """Return a client for a URL as `open_url` takes it, with redis-py's options. Raises ValueError when it is none."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    if not hosts or not service:
        raise ValueError("a host and a service are needed")
    given = {
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "db": int(database or 0),
    }
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    addresses = [_address(host) for host in hosts.split(",")]
    wait = min(2, options["socket_timeout"] / len(addresses))  # one after the other is asked
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        addresses,
        sentinel_kwargs={
            "password": query.get("sentinel_password"),
            "username": query.get("sentinel_username"),
            "socket_timeout": wait,
            "socket_connect_timeout": wait,
            "retry": Retry(NoBackoff(), 0),
        },
    )
    client: redis.Redis = sentinels.master_for(  # type: ignore[no-untyped-call]
        service, connection_class=_Connection, master=Master(sentinels, service), **options, **given
    )
    return client


def master_of(client: redis.Redis) -> Master | None:
    """Return the master that a client follows; None when no sentinels name one."""
    return client.connection_pool.connection_kwargs.get("master")


def follow(client: redis.Redis) -> None:
    """Look at who is the master again and again, in a thread, for as long as the client is there."""
    if (master := master_of(client)) is not None:
        threading.Thread(target=_keep_looking, args=(ref(master),), name="sentinel", daemon=True).start()


def _keep_looking(reference: ReferenceType[Master]) -> None:
    while True:
        time.sleep(LOOK_EVERY)
        if (master := reference()) is None:
            return
        master.look()
        del master


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is empty")
    return parts.hostname, parts.port or 26379
