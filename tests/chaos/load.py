"""Load: producers of every kind, each of which notes what it was told is safe."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.errors import BrokerError
from broker.event import new_event
from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.publisher import Publisher

GIVE_UP = 60.0
"""Seconds for which a producer repeats what was not taken; then the broker counts as broken."""


class Unsure(Exception):
    """The answer was lost: it may have been taken or not."""


class Load:
    """Producers, a thread each, that produce between `start` and `stop`.

    `owed` are the keys that are owed: the broker, or Redis for what is pushed there, or the file system for files, has
    said yes. `maybe` are those of which nobody knows, as the answer was lost and repeating would be another event.
    """

    def __init__(
        self, *, port: int, inbox: Path, client: redis.Redis, publisher: Publisher, replicas: int, seed: int
    ) -> None:
        self.owed: set[str] = set()
        self.maybe: set[str] = set()
        self.answers: Counter[object] = Counter()
        """How requests were answered: by status, or by the name of the error."""
        self.taken_at = 0.0
        """The monotonic moment at which the last request was made that got 202."""
        self._port, self._inbox, self._client, self._replicas = port, inbox, client, replicas
        self._publisher = publisher
        self._rng = random.Random(seed)
        self._gate, self._closed = threading.Event(), threading.Event()
        self._busy: set[str] = set()
        self._failures: list[BaseException] = []
        self._web: dict[str, http.client.HTTPConnection] = {}
        kinds = {
            "web": self._post, "hook": self._post, "file": self._drop,
            "list": self._rpush, "entry": self._xadd, "push": self._publish,
        }  # fmt: skip
        self._threads = [
            threading.Thread(target=self._produce, args=item, name=f"load-{item[0]}", daemon=True)
            for item in kinds.items()
        ]
        for thread in self._threads:
            thread.start()

    def start(self) -> None:
        self._gate.set()

    def stop(self) -> None:
        """Return when each producer has got a yes for its last event."""
        self._gate.clear()
        until(lambda: self._failures or not self._busy, within=GIVE_UP + 10, what=lambda: f"{self._busy} got no yes")
        self.complain()

    def complain(self) -> None:
        """Raise what a producer has met that no producer may meet."""
        if self._failures:
            raise self._failures[0]

    def close(self) -> None:
        self._closed.set()
        self._gate.set()
        for thread in self._threads:
            thread.join(GIVE_UP)
        for link in self._web.values():
            link.close()

    def publish(self, key: str) -> None:
        """Publish one message as `broker push` does, until it is safe."""
        self._repeat(key, self._publish)

    def _produce(self, kind: str, send: Callable[[str], None]) -> None:
        number = 0
        try:
            while not self._closed.is_set():
                if not self._gate.is_set():
                    self._busy.discard(kind)
                    self._gate.wait()
                    continue
                self._busy.add(kind)
                number += 1
                self._repeat(f"{kind}{number}", send)
                time.sleep(self._rng.uniform(0.005, 0.02))
        except BaseException as error:  # noqa: BLE001 -- the border of a thread; `stop` raises it
            self._failures.append(error)
        finally:
            self._busy.discard(kind)

    def _repeat(self, key: str, send: Callable[[str], None]) -> None:
        end = time.monotonic() + GIVE_UP
        while True:
            try:
                send(key)
            except Unsure:
                self.maybe.add(key)
                return
            except (OSError, http.client.HTTPException, redis.RedisError, BrokerError) as error:
                self.answers[type(error).__name__] += 1
                if time.monotonic() > end:
                    raise
                time.sleep(self._rng.uniform(0.05, 0.2))
            else:
                self.owed.add(key)
                return

    def _post(self, key: str) -> None:
        """Post until 202; the same key each time, so that what was taken before is not taken again."""
        name = threading.current_thread().name
        if name not in self._web:
            self._web[name] = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        link, began = self._web[name], time.monotonic()
        headers = {"content-type": "application/json", "idempotency-key": key}
        try:
            link.request("POST", "/web", json.dumps({"key": key}), headers)
            answer = link.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            link.close()
            raise
        self.answers[answer.status] += 1
        if answer.status not in {202, 429, 503}:
            raise AssertionError(f"a request was answered with {answer.status} {answer.getheaders()} {body!r}")
        if answer.status != 202:
            raise http.client.HTTPException(str(answer.status))
        self.taken_at = max(self.taken_at, began)

    def _drop(self, key: str) -> None:
        beside = self._inbox.with_name("beside")
        beside.write_text(key)
        beside.rename(self._inbox / key)

    def _rpush(self, key: str) -> None:
        self._push(lambda pipeline: pipeline.rpush("broker:queue:jobs", json.dumps({"key": key})), again=False)

    def _xadd(self, key: str) -> None:
        entry = {"data": json.dumps({"key": key}), "id": key}
        self._push(lambda pipeline: pipeline.xadd("broker:stream:jobs", entry), again=True)

    def _push(self, put: Callable[[redis.client.Pipeline], object], *, again: bool) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            put(pipeline)
            if self._replicas:
                pipeline.wait(self._replicas, 1000)
            try:
                answers = pipeline.execute(raise_on_error=False)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                if again or isinstance(error, redis.exceptions.BusyLoadingError):
                    raise
                raise Unsure from error
        if isinstance(answers[0], redis.ResponseError | redis.exceptions.BusyLoadingError):
            raise answers[0]  # refused, so it is not there
        bad = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if bad is not None or (self._replicas and answers[1] < self._replicas):
            if again:
                raise redis.ConnectionError("not on the replica yet")
            raise Unsure

    def _publish(self, key: str) -> None:
        self._publisher.publish([new_event(source="jobs", type="queue.message", id=key, data={"key": key})])


def impatient(client: redis.Redis) -> redis.Redis:
    """Let the client repeat nothing by itself: a push that is carried out twice is two messages."""
    client.set_retry(Retry(NoBackoff(), 0))
    with suppress(redis.RedisError, OSError):
        client.ping()
    return client
