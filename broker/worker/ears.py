"""Ears: what a worker hears from Redis: that something waits, that something was deployed, RQ's commands to it."""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable
from typing import TYPE_CHECKING

from redis import Redis, RedisError

from broker.doorbell import PATIENCE, Subscription
from broker.ledger import available

if TYPE_CHECKING:
    from broker.runtime.crew import Place
    from broker.runtime.messages import Message

log = logging.getLogger("broker.worker")


class Ears:
    """A subscription in the worker's own loop; one that breaks is renewed with `listen`."""

    def __init__(
        self,
        client: Redis,
        selector: selectors.BaseSelector,
        channels: list[str],
        on_message: Callable[[str, bytes], None],
    ) -> None:
        """Take what is called with channel and data of what was said; nothing is heard before `listen`."""
        self._client = client
        self._selector = selector
        self._channels = channels
        self._on_message = on_message
        self._subscription: Subscription | None = None
        self._descriptor = -1
        self._ask_at = 0.0

    def listen(self, now: float) -> None:
        """Hear from now on, if not already; now and then ask whether anybody is there. Raises StoreUnavailable."""
        with available():
            if self._subscription is not None and now >= self._ask_at:
                self._ask_at = now + PATIENCE
                self._ask(self._subscription)
            if self._subscription is None:
                self._subscription = Subscription(self._client, self._channels)
                self._descriptor = self._subscription.fileno()
                self._selector.register(self._descriptor, selectors.EVENT_READ, self._hear)
                self._ask_at = now + PATIENCE

    def _ask(self, subscription: Subscription) -> None:
        try:
            subscription.ask()
        except (RedisError, OSError) as error:
            log.debug("not listening: %s", error)
            self.hang_up()

    def hang_up(self) -> None:
        """Hear nothing more."""
        if self._subscription is not None:
            self._selector.unregister(self._descriptor)
            self._subscription.close()
            self._subscription = None

    def _hear(self) -> list[tuple[Place, Message]]:
        try:
            for channel, data in self._subscription.heard() if self._subscription else ():
                self._on_message(channel, data)
        except (RedisError, OSError) as error:
            log.debug("not listening: %s", error)
            self.hang_up()
        return []
