"""Queue drain: take items from an inbox, publish them, settle them; again and again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime

from redis import RedisError

from broker.errors import EventError, QueueFull, StoreError
from broker.source import SourceContext
from sources._queue.inbox import Inbox
from sources._queue.item import Item, Message, bad_record, grouped, read

PATIENCE = 0.7
"""Seconds to wait for an item before looking whether to stop, which has to happen within a second."""

FIRST_WAIT, LONGEST_WAIT = 0.05, 5.0
"""Seconds between tries while Redis is away."""


class Drain:
    """Empties one inbox into the ledger; `run` is for a thread of its own.

    An item is settled only after it is in the ledger. Whoever dies in between leaves it to be published again, under
    the same event id, and the ledger refuses that.
    """

    def __init__(self, inbox: Inbox, context: SourceContext) -> None:
        """Take the inbox, and the context that publishes."""
        self.failure: Exception | None = None
        """What `run` died of."""
        self._inbox = inbox
        self._context = context
        self._closed = threading.Event()
        self._inherited = False

    def __str__(self) -> str:
        """Return `list` or `stream`."""
        return self._inbox.place

    def close(self) -> None:
        """Let `run` return within a second, or as soon as what it publishes is accepted."""
        self._closed.set()

    def inherit(self) -> None:
        """Take note that this consumer was given what another had taken; it does not come by the inbox."""
        self._inherited = True

    def run(self) -> None:
        """Empty the inbox until stopped; an error that does not pass by itself ends up in `failure`."""
        try:
            self._run()
        except (QueueFull, StoreError) as error:
            # The context gives up only when it is stopping. What was taken stays pending.
            self._context.log.info("%s: stopped before all of %s was published: %s", self._context.name, self, error)
        except Exception as error:  # noqa: BLE001 -- the border of a thread; the source raises it
            self.failure = error

    def _run(self) -> None:
        wait = 0.0
        ready = False
        while not self._stopping():
            try:
                if not ready:
                    self._inbox.open()
                    ready = True
                self._inherited = False
                if not self._step():
                    while not (self._inbox.wait(PATIENCE) or self._inherited or self._stopping()):
                        pass
                wait = 0.0
            except RedisError as error:
                ready = False  # somebody may have deleted the stream, and its group with it
                level = self._context.log.debug if wait else self._context.log.warning
                level("%s: %s cannot be read: %s", self._context.name, self._inbox.key, error)
                wait = min(LONGEST_WAIT, wait * 2 or FIRST_WAIT)
                self._pause(wait)

    def _step(self) -> int:
        """Take some items and settle them; return how many."""
        items = self._inbox.take()
        now = datetime.now(UTC)
        messages, bad = [], []
        for item in items:
            try:
                messages.append(read(item, self._context.name, limit=self._inbox.limit, now=now))
            except EventError as error:
                bad.append((item, str(error)))
        if bad:
            self._refuse(bad)
        for group in grouped(messages):
            self._publish(group)
        return len(items)

    def _publish(self, messages: Sequence[Message]) -> None:
        """Publish messages that go one way, and settle them."""
        try:
            self._context.publish([message.event for message in messages], messages[0].how)
        except EventError as error:
            if len(messages) == 1:
                self._refuse([(messages[0].item, str(error))])
                return
            for message in messages:  # one of them is none; it must not keep the others
                self._publish([message])
            return
        self._inbox.settle([message.item for message in messages])

    def _refuse(self, bad: Sequence[tuple[Item, str]]) -> None:
        now = datetime.now(UTC)
        self._inbox.settle([], [(item, bad_record(item, why, now=now)) for item, why in bad])
        self._context.log.warning(
            "%s: refused %d of %s: %s; see the list broker:queue:%s:bad",
            self._context.name,
            len(bad),
            self._inbox.key,
            bad[0][1],
            self._context.name,
        )

    def _pause(self, seconds: float) -> None:
        # Short enough for _closed, which is set only when the other drain has failed, to be seen as well.
        if not self._context.stopping.wait(min(seconds, PATIENCE)):
            self._closed.wait(max(0.0, seconds - PATIENCE))

    def _stopping(self) -> bool:
        return self._context.stopping.is_set() or self._closed.is_set()
