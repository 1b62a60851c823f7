"""Queue: a named durable queue; `broker push NAME` fills it, and so does any Redis client, in any language.

    [sources.orders]
    kind = "queue"

`broker push` and `broker.push` publish by themselves. This source takes what others put into the same Redis, and owes
it to the functions of the queue's triggers:

    RPUSH broker:queue:orders '{"sku": 7}'
    XADD  broker:stream:orders * data '{"sku": 7}' id o-1 delay 5m priority high

An item of the list is JSON: the data of an event, or, when it has a `specversion`, a whole CloudEvent. An entry of the
stream has it in the field `data`; beside it, `id` (by which an item that is pushed twice is known), `delay` and
`priority` are optional. An entry without `data` is data itself, an object of strings. The events' type is
`queue.message`.

What is neither goes to the list `broker:queue:orders:bad`: the item, why, and when. List and stream belong to the
broker, which empties them. Nothing is lost and nothing doubled when hosts die, or several share one queue.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis import RedisError

from broker.quantity import Size
from broker.source import Source, SourceContext
from sources._queue.crew import BEAT, Crew
from sources._queue.drain import Drain
from sources._queue.inbox import Keys, ListInbox, StreamInbox
from sources._queue.sqs import delivery

LARGEST = Size(512 << 20)
"""Redis' own limit for one value."""


class Queue(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A queue that other programs fill."""

    max_item: Size = Size(1 << 20)
    """The largest item that is taken; a larger one goes to the bad ones, cut to this size."""

    def check(self, root: Path) -> list[str]:
        """Return what is wrong with the options."""
        del root
        return [] if 0 < self.max_item <= LARGEST else [f"max_item: expected 1B to {LARGEST}, got {self.max_item}"]

    def plan(self, root: Path) -> list[str]:
        """Return where the queue is filled."""
        del root
        return ["takes `broker push NAME`, RPUSH broker:queue:NAME and XADD broker:stream:NAME"]

    def aws(self, event: dict[str, Any], attempt: int) -> Any:
        """Return SQS' delivery of it."""
        return delivery(event, attempt)

    def run(self, context: SourceContext) -> None:
        """Publish what is pushed until `context.stopping` is set; while Redis is away, wait for it."""
        keys = Keys.of(context.name, context.prefix)
        crew = Crew(context.redis, keys)
        limit = int(self.max_item)
        drains = [
            Drain(ListInbox(context.redis, keys, crew.name, limit), context),
            Drain(StreamInbox(context.redis, keys, crew.name, limit), context),
        ]
        threads = [threading.Thread(target=drain.run, name=f"{context.name}-{drain}", daemon=True) for drain in drains]
        for thread in threads:
            thread.start()
        try:
            self._keep(crew, drains, threads, context)
        finally:
            for drain in drains:
                drain.close()
            for thread in threads:
                # One may be in a publish that waits for Redis; it is a daemon and holds nothing that is not in Redis.
                thread.join(timeout=BEAT)
            # Others take over what is left; where this cannot be told to Redis, the lease tells.
            with suppress(RedisError):
                crew.leave()
        for drain in drains:
            if drain.failure is not None:
                raise drain.failure

    def _keep(self, crew: Crew, drains: list[Drain], threads: list[threading.Thread], context: SourceContext) -> None:
        """Keep this consumer alive in the others' eyes, and take over from those who are not, until one drain ends."""
        well = self._beats(crew, drains, context, well=True)
        while not context.stopping.wait(BEAT) and all(thread.is_alive() for thread in threads):
            well = self._beats(crew, drains, context, well=well)

    def _beats(self, crew: Crew, drains: list[Drain], context: SourceContext, *, well: bool) -> bool:
        try:
            for name in crew.beat():
                context.log.warning("%s: took over what %s had left", context.name, name)
                for drain in drains:
                    drain.inherit()
        except RedisError as error:
            if well:
                context.log.warning("%s: Redis does not answer: %s", context.name, error)
            return False
        return True
