"""Call: publish one invocation of a function, and follow it until it has ended."""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec

from broker.doorbell import Doorbell
from broker.errors import BrokerError, QueueFull, StoreUnavailable
from broker.ledger import Ledger, available, reading
from broker.publisher import Publisher
from broker.source import Outcome, Publishing
from broker.tail import Logged, Tail, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from broker.config import Config
    from broker.event import Event

GLANCE = 0.1
"""Seconds between two looks whether the outcome is there."""

LISTEN_WITHIN = 5.0
"""Seconds that Redis gets to let us listen for the outcome."""

LOOK = 2.0
"""Seconds between two looks at the record, should the outcome have been told while nobody could hear it."""


class Call:
    """One invocation, past all triggers."""

    def __init__(
        self,
        config: Config,
        client: Redis,
        function: str,
        event: Event,
        *,
        client_context: bytes = b"",
        qualifier: str = "",
    ) -> None:
        """Take the function's name, the event, AWS Lambda's client context as JSON, and an alias or version.

        Nothing is published yet.
        """
        self._client = client
        self._function = function
        self._event = event
        self._client_context = client_context
        self._qualifier = qualifier
        self._channel = f"broker:reply:{uuid4().hex}"
        self._publisher = Publisher(config, Ledger(client), reply=self._channel)
        self._told: Future[Outcome] = Future()
        self.id = ""
        """The invocation's id, once it is published."""

    def publish(self) -> None:
        """Publish it, and do not wait. Raises QueueFull, StoreUnavailable, BrokerError when it is there already."""
        self._publish(Publishing())

    def run(self, hear: Callable[[list[Logged]], None], timeout: float | None = None) -> Outcome | None:
        """Publish it and wait for its end; None when that takes longer than the timeout, in seconds.

        `hear` gets what it prints, while it runs. Raises as `publish` does.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with available():
            seconds, micros = self._client.time()
        order = self._publisher.order_for(self._function, self._event)
        # Not closed: that would wait for a thread that ends with the process anyway.
        if not Doorbell(self._client, [self._channel], self._listen).wait_until_listening(LISTEN_WITHIN):
            raise StoreUnavailable("Redis does not let us listen for the outcome")
        self._publish(Publishing(reply=True))
        tail = Tail(
            self._client,
            [self._function],
            since_ms=seconds * 1000 + micros // 1000,
            wanted=Wanted(invocation=order.id),
        )
        return self._wait(tail, hear, deadline)

    def has_worker(self) -> bool:
        """Return whether there is a worker, ours or RQ's."""
        with available():
            return bool(self._client.exists("broker:workers", "rq:workers"))

    def _publish(self, how: Publishing) -> None:
        order = self._publisher.order_for(self._function, self._event, how, self._client_context, self._qualifier)
        (receipt,) = self._publisher.publish_orders([self._event.id], [[order]])
        if isinstance(receipt, QueueFull):
            raise receipt
        if receipt.duplicate:
            raise BrokerError(
                f"{self._function} was given event {self._event.id!r} of {self._event.source!r} before: "
                f"see `broker show {order.id}`"
            )
        self.id = order.id

    def _listen(self, channel: str, message: bytes) -> None:
        if channel == self._channel:
            _, ok, body = message.split(b"\n", 2)
            self._told.set_result(Outcome(invocation=self.id, ok=ok == b"1", body=body))

    def _wait(self, tail: Tail, hear: Callable[[list[Logged]], None], deadline: float | None) -> Outcome | None:
        look_at = time.monotonic() + LOOK
        for lines in tail.follow(GLANCE):
            hear(lines)
            now = time.monotonic()
            if self._told.done():
                hear(list(tail.written()))  # they were written in the same step as the outcome
                return self._told.result()
            if deadline is not None and now >= deadline:
                return None
            if now >= look_at:
                look_at = now + LOOK
                with suppress(StoreUnavailable):  # it is waited for
                    if outcome := self._recorded():
                        hear(list(tail.written()))
                        return outcome
        return None

    def _recorded(self) -> Outcome | None:
        """Return the outcome as the ledger has kept it, if there is one."""
        status = reading.fetch(self._client, self.id)
        if status.ended is None:  # RQ's cancel tells nobody, and writes no moment
            return self._failed("Canceled", "RQ's tools cancelled it") if status.status == "canceled" else None
        last = next(iter(reading.endings(self._client, self.id)), None)
        if status.status == "finished":
            body = last.body.encode() if last and last.ok else b"null"
            return Outcome(invocation=self.id, ok=True, body=body)
        text = (last.body if last else "").rpartition("\n")[2].removeprefix(f"{status.reason}: ")
        return self._failed(status.reason, text)

    def _failed(self, reason: str, text: str) -> Outcome:
        error: dict[str, Any] = {"errorType": reason, "errorMessage": text}
        return Outcome(invocation=self.id, ok=False, body=msgspec.json.encode(error))
