"""API: publish from a program of one's own, with the same configuration as the broker's."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker import config as configuration
from broker.deployed.functions import Functions
from broker.errors import EventError, UnknownQueue
from broker.event import new_event
from broker.ledger import Ledger
from broker.names import nearest
from broker.publisher import Publisher
from broker.source import Publishing
from broker.store import connection

if TYPE_CHECKING:
    from redis import Redis

    from broker.config import Config
    from broker.function import Priority


class Publishers:
    """One publisher, with its connection, for each configuration; all threads share it."""

    def __init__(self) -> None:
        self._made: dict[Path, tuple[Config, Publisher, Functions, Redis]] = {}
        self._lock = threading.Lock()

    def get(self, path: Path) -> tuple[Config, Publisher]:
        """Return configuration and publisher; connects the first time. Raises ConfigError, StoreError."""
        with self._lock:
            if path not in self._made:
                config = configuration.load(path)
                client = connection.connect(config)
                functions = Functions(config, client)
                self._made[path] = config, Publisher(config, Ledger(client), functions=functions), functions, client
            config, publisher, functions, client = self._made[path]
            functions.look(client)
            return config, publisher


_publishers = Publishers()


def push(
    queue: str,
    data: Any,
    *,
    id: str | None = None,  # noqa: A002 -- CloudEvents' own name
    delay: float = 0,
    priority: Priority = "normal",
    config: str | Path | None = None,
) -> str:
    """Put a message into a queue source, and return its event's id once it is in Redis.

    `data` is any JSON value. A message with an `id` that is known already is not taken on again. `delay` is in seconds.
    The configuration is `config`, else $BROKER_CONFIG, else ./config.toml; it is read once in the life of a process.

    Raises ConfigError, UnknownQueue, EventError when `data` is not JSON (NaN and infinity are not), QueueFull,
    StoreMissing and StoreUnavailable; after the last it is not known whether the message was taken on, and pushing it
    again with the same `id` is safe.
    """
    path = Path(config or os.environ.get("BROKER_CONFIG") or "config.toml").absolute()
    loaded, publisher = _publishers.get(path)
    check_queue(loaded, queue)
    if delay < 0 or priority not in {"high", "normal", "low"}:
        raise EventError(f"expected a delay of 0 or more and a priority of high, normal or low: {delay}, {priority!r}")
    event = new_event(source=queue, type="queue.message", id=id, data=data)
    publisher.publish([event], Publishing(delay=float(delay), priority=priority))
    return event.id


def check_queue(config: Config, name: str) -> None:
    """Raise UnknownQueue unless the configuration has a queue source of that name."""
    queues = [source for source, kind in config.kinds.items() if kind == "queue"]
    if name not in queues:
        hint = nearest(name, queues) or (f"known: {', '.join(queues)}" if queues else 'none has kind = "queue"')
        raise UnknownQueue(f"there is no queue {name!r} in {config.path}; {hint}")
