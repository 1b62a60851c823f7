"""A SourceContext for the tests of sources: a real Redis and the ledger's promises, without the ledger.

What is published stands in the Redis list `test:events`, each (source, id) once, so that a test may also read what a
killed process had published. Tests make it fail with `fail`, and say with `end` what the functions would have done.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.clockwork import Clockwork
from broker.errors import BrokerError
from broker.event import Event, invocation_id
from broker.ledger import available
from broker.source import Ended, Errand, Outcome, Publish, Publishing, Receipt, Source, T, Work

if TYPE_CHECKING:
    from redis import Redis

EVENTS, SEEN = "test:events", "test:seen"

USUAL = Publishing()

# KEYS: seen, events, open. ARGV: 1 when tracked, then (source and id, id, event) of each. Answers 1 for a new event, as
# the ledger does, in one step: a process killed here has published all of the call or nothing.
_PUBLISH = """
local answers = {}
for i = 2, #ARGV, 3 do
  if redis.call('SADD', KEYS[1], ARGV[i]) == 1 then
    redis.call('RPUSH', KEYS[2], ARGV[i + 2])
    if ARGV[1] == '1' then redis.call('HINCRBY', KEYS[3], ARGV[i + 1], 1) end
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
return answers
"""


class RealContext:
    """What a source is given in a test; it satisfies broker.source.SourceContext.

    Every event is owed to one function, named `test`, unless `matching` is set to False.
    """

    def __init__(self, redis: Redis, root: Path, *, name: str = "source") -> None:
        self.name = name
        self.root = root
        self.redis = redis
        self.prefix = f"broker:source:{name}:"
        self.log = logging.getLogger(f"broker.source.{name}")
        self.stopping = threading.Event()
        self.matching = True
        self.calls: list[int] = []
        """How many events each call of publish brought."""
        self.published: list[tuple[Event, Publishing]] = []
        """What this context published itself and was new, in order."""
        self.on_publish: Callable[[Sequence[Event]], None] | None = None
        """Called first in each publish, with its events."""
        self._script = redis.register_script(_PUBLISH)
        self._failure: BrokerError | None = None
        self._well = threading.Condition()
        self._outcomes: dict[str, Future[Outcome]] = {}
        self._shared: dict[object, Any] = {}
        self._lock = threading.Lock()

    # What the source calls.

    def publish(self, events: Sequence[Event], how: Publishing = USUAL) -> list[Receipt]:
        """Block while the test says `fail`; raise only when stopping meanwhile."""
        if self.on_publish:
            self.on_publish(events)
        with self._well:
            while self._failure:
                if self.stopping.is_set():
                    raise self._failure
                self._well.wait(0.01)
        self.calls.append(len(events))
        return self._write(events, how)

    def submit(self, event: Event, how: Publishing = USUAL) -> Future[Receipt]:
        future: Future[Receipt] = Future()
        self.submit_then(
            event,
            how,
            lambda answer: future.set_exception(answer) if isinstance(answer, Exception) else future.set_result(answer),
        )
        return future

    def submit_then(self, event: Event, how: Publishing, then: Callable[[Receipt | Exception], object]) -> None:
        answer: Receipt | Exception
        try:
            answer = self._failure or self._write([event], how)[0]
        except BrokerError as error:
            answer = error
        then(answer)

    def outcome(self, invocation: str) -> Future[Outcome]:
        with self._lock:
            return self._outcomes.setdefault(invocation, Future())

    def ended(self) -> Iterator[Ended]:
        key = f"broker:ended:{self.name}"
        while row := self.redis.lindex(key, 0):
            assert isinstance(row, bytes), "the client does not decode responses"
            failed, _, event = row.decode().partition("\n")
            yield Ended(event=event, failed=int(failed))
            self.redis.lpop(key)

    def open(self) -> int:
        return self.redis.hlen(self._open)

    def share(self, key: object, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key not in self._shared:
                self._shared[key] = make()
            return self._shared[key]

    def carry_out(self, errand: Errand) -> Any:
        if isinstance(errand, Publish):
            return self.publish(errand.events, errand.how)
        with available():
            return self.redis.execute_command(*errand.words)

    # What the test calls.

    def close(self) -> None:
        """End what the source shared with others of this process."""
        with self._lock:
            shared, self._shared = self._shared, {}
        for made in shared.values():
            if hasattr(made, "stop"):
                made.stop()

    def fail(self, error: BrokerError | None) -> None:
        """From now on publishing fails with `error`; None: it works again."""
        with self._well:
            self._failure = error
            self._well.notify_all()

    def end(self, event: str, *, failed: int = 0) -> None:
        """Say that every invocation of a tracked event has ended."""
        assert self.redis.hdel(self._open, event), f"{event} is not a tracked event that is open"
        self.redis.rpush(f"broker:ended:{self.name}", f"{failed}\n{event}")

    def answer(self, invocation: str, body: bytes, *, ok: bool = True) -> None:
        """Say how an invocation ended, to whoever waits for its outcome."""
        self.outcome(invocation).set_result(Outcome(invocation=invocation, ok=ok, body=body))

    def records(self) -> list[dict[str, Any]]:
        """Return every event published so far, by this or any other process, in order."""
        return [json.loads(raw) for raw in self.redis.lrange(EVENTS, 0, -1)]

    def count(self) -> int:
        """Return how many events were published so far, by this or any other process."""
        return self.redis.llen(EVENTS)

    @property
    def _open(self) -> str:
        return f"broker:open:{self.name}"

    def _write(self, events: Sequence[Event], how: Publishing) -> list[Receipt]:
        arguments: list[Any] = [int(how.track and self.matching)]
        for event in events:
            arguments += [f"{event.source}\0{event.id}", event.id, event.encode()]
        answers = self._script(keys=[SEEN, EVENTS, self._open], args=arguments) if events else []
        self.published += [(event, how) for event, new in zip(events, answers, strict=True) if new]
        return [
            Receipt(
                event=event.id,
                invocations=(invocation_id("test", event),) if self.matching else (),
                duplicate=self.matching and not new,
            )
            for event, new in zip(events, answers, strict=True)
        ]


def alone(work: Work[T], context: RealContext) -> T:
    """Do one step, each errand as it comes; what goes wrong is raised here."""
    answer = None
    while True:
        try:
            errand = work.send(answer)
        except StopIteration as end:
            return end.value
        answer = context.carry_out(errand)


def run_in_host(source: Source, context: RealContext) -> None:
    """Run the source as a host does, until `context.stopping` is set."""
    if type(source).steps is Source.steps:
        source.run(context)
        return

    def carry_out(errands: Sequence[Errand]) -> list[Any]:
        answers: list[Any] = []
        for errand in errands:
            try:
                answers.append(context.carry_out(errand))
            except BrokerError as error:
                answers.append(error)
        return answers

    Clockwork({context.name: lambda: source.steps(context)}, carry_out, context.stopping).run()


STOPS_WITHIN = 10
"""Seconds that only a source exceeds that does not hear that it is to stop: the tests' scans are far apart."""


@contextmanager
def running(source: Source, context: RealContext) -> Iterator[RealContext]:
    """Run the source in a thread; stop it at the end, which takes it a second at most, and raise what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            run_in_host(source, context)
        except BaseException as error:  # noqa: BLE001 -- handed to the test's thread
            raised.append(error)

    context.stopping.clear()
    thread = threading.Thread(target=run, name=f"source-{context.name}", daemon=True)
    thread.start()
    try:
        yield context
    finally:
        context.stopping.set()
        thread.join(STOPS_WITHIN)
        assert not thread.is_alive(), "the source does not stop"
        context.close()
    if raised:
        raise raised[0]
