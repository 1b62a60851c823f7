"""Publisher: event -> matching triggers -> ledger; with a thread that publishes together what comes together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import msgspec

from broker.deployed.functions import Functions
from broker.errors import EventTooLarge, QueueFull
from broker.event import Event, invocation_id
from broker.flow import flow_of
from broker.ledger import Ledger, Order
from broker.ledger.jobs import job_data
from broker.ledger.values import DUPLICATE, FULL, Related
from broker.source import Publishing, Receipt

if TYPE_CHECKING:
    from broker.config import Config
    from broker.function import Function

log = logging.getLogger("broker")

GROUP = 500
"""How many events at the most go to Redis in one call: a bound on how long one script may hold the server."""

USUAL = Publishing()


class Publisher:
    """Publishes events to the functions that the configuration's triggers name."""

    def __init__(self, config: Config, ledger: Ledger, *, reply: str = "", functions: Functions | None = None) -> None:
        """Take the channel on which outcomes are awaited as `reply`, when `Publishing.reply` is to be used.

        Whoever lives long keeps `functions` up to date; without them they are read now. Raises StoreUnavailable.
        """
        self._functions = functions or Functions(config, ledger.client)
        self._replicas = config.settings.replicas
        self._longest = config.settings.max_event
        self._ledger = ledger
        self._reply = reply

    def orders(self, event: Event, how: Publishing = USUAL) -> list[Order]:
        """Return what is owed for the event: one order a function whose trigger matches.

        Raises EventError when the event's data is not JSON, EventTooLarge when it is too long.
        """
        return self._orders(event, how, self._longest)

    def _orders(self, event: Event, how: Publishing, longest: int | None = None) -> list[Order]:
        record = event.record()
        now = self._functions.now
        names = now.routes.match(record, event.source)
        if not names:
            return []
        encoded = event.encode_record(record)
        if longest is not None and len(encoded) > longest:
            raise _too_large(event, encoded, longest)
        return [self._order(now.by_name[name], event, encoded, how) for name in names]

    def order_for(
        self, name: str, event: Event, how: Publishing = USUAL, client: bytes = b"", qualifier: str = ""
    ) -> Order:
        """Return the order for one function, past all triggers.

        `client` is what the caller says of itself, as JSON, `qualifier` the alias or version that it wants. Raises
        EventError when the event's data is not JSON, EventTooLarge when it is too long.
        """
        encoded = event.encode()
        if len(encoded) > self._longest:
            raise _too_large(event, encoded, self._longest)
        return self._order(self._functions.now.by_name[name], event, encoded, how, client=client, qualifier=qualifier)

    def follow(self, destination: str, event: Event) -> list[Order]:
        """Return what is owed to a function's destination: another function, or whoever listens to `queue:NAME`.

        The event holds a result, which has a limit of its own.
        """
        kind, _, name = destination.rpartition(":")
        if kind == "queue":
            return self._orders(event.sent_to(name), USUAL)
        if name not in self._functions.now.by_name:  # only one that was deployed can be gone
            log.error("%s: the destination %s is no function any more; what it was owed is dropped", event.source, name)
            return []
        return [self._order(self._functions.now.by_name[name], event, event.encode(), USUAL)]

    def publish(self, events: Sequence[Event], how: Publishing = USUAL) -> list[Receipt]:
        """Return once all is in Redis.

        Raises QueueFull when an event met a full queue (of that event nothing was accepted; repeat all of them, what
        was accepted is refused as a duplicate), StoreUnavailable when Redis did not answer.
        """
        receipts = []
        for start in range(0, len(events), GROUP):
            group = events[start : start + GROUP]
            orders = [self.orders(event, how) for event in group]
            receipts += self.publish_orders([event.id for event in group], orders)
        for receipt in receipts:
            if isinstance(receipt, QueueFull):
                raise receipt
        return [receipt for receipt in receipts if isinstance(receipt, Receipt)]

    def publish_orders(self, ids: Sequence[str], orders: Sequence[Sequence[Order]]) -> list[Receipt | QueueFull]:
        """Publish the orders of each event; the answer for an event that met a full queue is QueueFull."""
        receipts: list[Receipt | QueueFull] = []
        for event, owed, answers in zip(
            ids, orders, self._ledger.publish(orders, replicas=self._replicas), strict=True
        ):
            if FULL in answers:
                full = owed[answers.index(FULL)]
                receipts.append(QueueFull(full.queue, full.max_queue))
            else:
                receipts.append(_receipt(event, owed, answers))
        return receipts

    def _order(
        self,
        function: Function,
        event: Event,
        encoded: bytes,
        how: Publishing,
        *,
        client: bytes = b"",
        qualifier: str = "",
    ) -> Order:
        return Order(
            queue=function.queue(how.priority),
            id=invocation_id(function.name, event),
            data=job_data(function.name, encoded, client, qualifier),
            description=function.name,
            timeout=float(function.timeout),
            keep=float(function.keep),
            max_queue=function.max_queue,
            delay=how.delay,
            track=event.source if how.track else "",
            event=event.id if how.track else "",
            reply=self._reply if how.reply else "",
            flow=flow_of(function, event),
        )


def _too_large(event: Event, encoded: bytes, longest: int) -> EventTooLarge:
    return EventTooLarge(f"event {event.id!r} has {len(encoded)} bytes; the limit is {longest} (max_event)")


def _receipt(event: str, owed: Sequence[Order], answers: Sequence[int]) -> Receipt:
    duplicate = bool(owed) and all(answer == DUPLICATE for answer in answers)
    invocations = [order.id for order in owed]
    superseded = []
    for position, answer in enumerate(answers):
        if isinstance(answer, Related):
            if answer == DUPLICATE:
                invocations[position] = answer.other
            else:
                superseded.append(answer.other)
    return Receipt(event=event, invocations=tuple(invocations), duplicate=duplicate, superseded=tuple(superseded))


Then = Callable[[Receipt | Exception], object]
"""What is called with the answer to a submission: its receipt; or QueueFull, StoreUnavailable, or the unexpected."""


class _Submission(msgspec.Struct, frozen=True):
    event: str
    orders: list[Order]
    then: Then


class GroupCommit:
    """A thread that publishes submissions; those that arrive during one round trip share the next."""

    def __init__(self, publisher: Publisher) -> None:
        """Start the thread."""
        self._publisher = publisher
        self._waiting: SimpleQueue[_Submission | None] = SimpleQueue()
        """What is to be published; None at its end."""
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    def submit(self, event: str, orders: list[Order]) -> Future[Receipt]:
        """Return the receipt-to-be; it fails with QueueFull or StoreUnavailable."""
        future: Future[Receipt] = Future()
        self.submit_then(event, orders, partial(settle, future))
        return future

    def submit_then(self, event: str, orders: list[Order], then: Then) -> None:
        """Have it published; `then` is called in our thread, and is to be quick."""
        self._waiting.put(_Submission(event, orders, then))

    def close(self) -> None:
        """Publish what waits, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (one := self._waiting.get()) is not None:
            group = [one]
            with suppress(Empty):
                while len(group) < GROUP and (one := self._waiting.get_nowait()) is not None:
                    group.append(one)
            self._commit(group)
            if one is None:
                return

    def _commit(self, group: list[_Submission]) -> None:
        answers: Sequence[Receipt | Exception]
        try:
            answers = self._publisher.publish_orders([one.event for one in group], [one.orders for one in group])
        except Exception as error:  # noqa: BLE001 -- this thread's border: whoever waits is told, the next are served
            answers = [error] * len(group)
        for one, answer in zip(group, answers, strict=True):
            try:
                one.then(answer)
            except Exception:  # the border to a source, which may be anybody's code
                log.exception("what was to come after the event %s failed", one.event)


def settle(future: Future[Receipt], answer: Receipt | Exception) -> None:
    """Give a future its answer, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
