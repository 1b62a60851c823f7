"""Host: runs the sources, a thread each; starts one again that dies."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from broker.clockwork import Clockwork
from broker.deployed.catalog import CHANGES
from broker.deployed.functions import Functions
from broker.doorbell import Doorbell
from broker.errands import Errands
from broker.errors import BrokerError, QueueFull, StoreUnavailable
from broker.ledger import Ledger, available
from broker.publisher import USUAL, GroupCommit, Publisher, Then, settle
from broker.source import Ended, Outcome, Publishing, Receipt, Source
from broker.store import connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from redis import Redis

    from broker.config import Config
    from broker.event import Event
    from broker.source import Steps

log = logging.getLogger("broker.host")

FIRST_WAIT, LONGEST_WAIT = 0.1, 30.0
"""Seconds before a source that died, or a call that met a Redis that is away, is tried again."""

KEPT_OUTCOMES = 100_000
"""Outcomes that are kept at the most, should publishers never ask for theirs."""

HEALTHY_AFTER = 60.0
"""Seconds after which a source that dies counts as one that had worked: it starts again quickly."""


class Replies:
    """The outcomes that publishers of this host wait for.

    An outcome may come before it is asked for, so it is expected before the invocation is published, and kept until it
    was both heard and asked for.
    """

    def __init__(self, client: Redis) -> None:
        """Listen on a channel of our own."""
        self.channel = f"broker:reply:{uuid4().hex}"
        self._waiting: dict[str, Future[Outcome]] = {}
        self._lock = threading.Lock()
        self._doorbell = Doorbell(client, [self.channel], on_message=self._hear)

    def expect(self, invocations: Sequence[str]) -> None:
        """Keep the outcomes of invocations that are about to be published.

        Raises StoreUnavailable when outcomes cannot be heard now: then they must not be published.
        """
        if not self._doorbell.wait_until_listening(0):
            raise StoreUnavailable("Redis does not let us listen for the outcome")
        with self._lock:
            for invocation in invocations:
                self._waiting.setdefault(invocation, Future())
            while len(self._waiting) > KEPT_OUTCOMES:
                self._waiting.pop(next(iter(self._waiting)))

    def outcome(self, invocation: str) -> Future[Outcome]:
        """Return the outcome-to-be of an invocation that is expected; cancel it to stop waiting."""
        with self._lock:
            future = self._waiting.setdefault(invocation, Future())
        future.add_done_callback(lambda _: self.forget([invocation]))
        return future

    def forget(self, invocations: Sequence[str]) -> None:
        """Stop waiting for invocations."""
        with self._lock:
            for invocation in invocations:
                self._waiting.pop(invocation, None)

    def close(self) -> None:
        """Stop listening."""
        self._doorbell.close()

    def _hear(self, channel: str, message: bytes) -> None:
        if channel != self.channel:
            return
        name, ok, body = message.split(b"\n", 2)
        with self._lock:
            future = self._waiting.get(name.decode())
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(Outcome(invocation=name.decode(), ok=ok == b"1", body=body))


class HostContext:
    """What one running source may use; see broker.source.SourceContext."""

    def __init__(self, host: Host, name: str) -> None:
        """Take the host and the source's name."""
        self._host = host
        self.name = name
        self.root: Path = host.config.root
        self.redis: Redis = host.client
        self.prefix = f"broker:source:{name}:"
        self.log = logging.getLogger(f"broker.source.{name}")
        self.stopping = host.stopping

    def publish(self, events: Sequence[Event], how: Publishing = USUAL) -> list[Receipt]:
        """Return once all is in Redis; see SourceContext."""
        wait = FIRST_WAIT
        while True:
            try:
                return self._host.publisher.publish(events, how)
            except (StoreUnavailable, QueueFull) as error:
                if self.stopping.is_set():
                    raise
                self.log.warning("%s: %s; trying again in %.1f s", self.name, error, wait)
                self.stopping.wait(wait)
                wait = min(LONGEST_WAIT, wait * 2)

    def submit(self, event: Event, how: Publishing = USUAL) -> Future[Receipt]:
        """Publish without blocking; see SourceContext."""
        future: Future[Receipt] = Future()
        self.submit_then(event, how, partial(settle, future))
        return future

    def submit_then(self, event: Event, how: Publishing, then: Then) -> None:
        """Publish without blocking, and call `then`; see SourceContext."""
        orders = self._host.publisher.orders(event, how)
        if how.reply:
            owed = [order.id for order in orders]
            self._host.replies.expect(owed)
            then = partial(self._forget_unless_accepted, owed, then)
        self._host.group_commit.submit_then(event.id, orders, then)

    def outcome(self, invocation: str) -> Future[Outcome]:
        """Return the outcome-to-be of an invocation; see SourceContext."""
        return self._host.replies.outcome(invocation)

    def _forget_unless_accepted(self, owed: Sequence[str], then: Then, answer: Receipt | Exception) -> None:
        if isinstance(answer, Exception) or answer.duplicate:
            self._host.replies.forget(owed)
        then(answer)

    def ended(self) -> Iterator[Ended]:
        """Yield tracked events that ended; see SourceContext."""
        key = f"broker:ended:{self.name}"
        while not self.stopping.is_set():
            with available():
                row: Any = self.redis.lindex(key, 0)
            if row is None:
                return
            failed, _, event = row.partition(b"\n")
            yield Ended(event=event.decode(errors="surrogateescape"), failed=int(failed))
            with available():
                self.redis.lrem(key, 1, row)

    def open(self) -> int:
        """Return how many tracked events have not ended; see SourceContext."""
        with available():
            return int(self.redis.hlen(f"broker:open:{self.name}"))

    def share(self, key: object, make: Callable[[], Any]) -> Any:
        """Return the host's one object under a key; see SourceContext."""
        return self._host.share(key, make)


class Host:
    """The sources of one configuration, running."""

    def __init__(self, config: Config, client: Redis) -> None:
        """Take a connected client."""
        self.config = config
        self.client = client
        self.stopping = threading.Event()
        self.replies = Replies(client)
        functions = Functions(config, client)
        self.publisher = Publisher(config, Ledger(client), reply=self.replies.channel, functions=functions)
        self._deploys = Doorbell(client, [CHANGES], on_message=lambda *_: self._learn(functions))
        self.group_commit = GroupCommit(self.publisher)
        self._shared: dict[object, Any] = {}
        self._lock = threading.Lock()

    def _learn(self, functions: Functions) -> None:
        """Take note of what was deployed; called when there is something, and after each time we could not hear."""
        try:
            if functions.refresh(self.client):
                log.info("functions were deployed")
        except StoreUnavailable as error:
            raise ConnectionError(str(error)) from error  # the doorbell tries again, and calls again

    def share(self, key: object, make: Callable[[], Any]) -> Any:
        """Return the one object under `key`; `make` is called by the first who asks."""
        with self._lock:
            if key not in self._shared:
                self._shared[key] = make()
            return self._shared[key]

    def run(self) -> None:
        """Run every source until `stopping` is set."""
        stepped = {name: source for name, source in self.config.sources.items() if _has_steps(source)}
        threads = [
            threading.Thread(target=partial(self._keep_running, name, source), name=f"source-{name}", daemon=True)
            for name, source in self.config.sources.items()
            if name not in stepped
        ]
        if stepped:
            begin = {name: partial(self._begin, name, source) for name, source in stepped.items()}
            clockwork = Clockwork(begin, Errands(self.publisher, self.client).carry_out, self.stopping)
            threads.append(threading.Thread(target=clockwork.run, name="clockwork", daemon=True))
        for name, source in self.config.sources.items():
            self._prepare(name, source)
        for thread in threads:
            thread.start()
        self.stopping.wait()
        deadline = time.monotonic() + self.config.settings.grace
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                log.warning("%s does not end; leaving without it", thread.name)
        self.group_commit.close()
        self.replies.close()
        self._deploys.close()

    def _prepare(self, name: str, source: Source) -> None:
        context = HostContext(self, name)
        try:
            source.prepare(context)
        except Exception:  # the border to a source, which may be anybody's code
            context.log.exception("%s is not prepared", name)

    def _begin(self, name: str, source: Source) -> Steps:
        return source.steps(HostContext(self, name))

    def _keep_running(self, name: str, source: Source) -> None:
        context = HostContext(self, name)
        wait = FIRST_WAIT
        while not self.stopping.is_set():
            started = time.monotonic()
            try:
                source.run(context)
            except BrokerError as error:
                context.log.error("%s: %s", name, error)  # noqa: TRY400 -- ours: the message says it all
            except Exception:  # the border to a source, which may be anybody's code
                context.log.exception("%s died", name)
            if self.stopping.is_set():
                return
            if time.monotonic() - started > HEALTHY_AFTER:
                wait = FIRST_WAIT
            context.log.warning("%s starts again in %.1f s", name, wait)
            self.stopping.wait(wait)
            wait = min(LONGEST_WAIT, wait * 2)


def _has_steps(source: Source) -> bool:
    return type(source).steps is not Source.steps


def main(config: Config) -> int:
    """Run the sources until SIGTERM or SIGINT; the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    host = Host(config, connection.connect(config, wait=True))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: host.stopping.set())
    gc.collect()
    gc.freeze()  # what is there by now stays: a collection that looks at all of it keeps requests waiting for 15 ms
    host.run()
    return 0
