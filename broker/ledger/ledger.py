"""Ledger: publish, claim, settle and recover invocations; each is one script and one round trip.

What the scripts do and which keys they write is told in docs/ledger.md.
"""

from __future__ import annotations

import base64
import itertools
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from redis import exceptions
from redis.exceptions import ResponseError

from broker.errors import StoreUnavailable
from broker.flow import Flow
from broker.function import Batch
from broker.ledger.line import Line

if TYPE_CHECKING:
    from redis import Redis

Verdict = Literal["finished", "retry", "dead", "release", "replay", "drop"]

WAKE = "broker:wake"
"""The channel on which a queue's name is published when something begins to wait in it."""

COPY_WITHIN = 1000
"""Milliseconds in which replicas have to say that they have what was published."""

ACCEPTED, DUPLICATE, FULL = 1, 0, -1

NOTHING: Mapping[str, int] = MappingProxyType({})

_AWAY = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.NoScriptError,  # the server was started anew between our loading the script and calling it
    OSError,
)
_TRANSIENT = ("MISCONF", "OOM", "LOADING", "READONLY", "NOREPLICAS", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "BUSY ")


class Related(int):
    """An answer about another invocation, too: DUPLICATE of it, or ACCEPTED in its place, since it waited for quiet."""

    other: str
    """Its id."""

    @classmethod
    def read(cls, answer: Any) -> int:
        """Read one answer of publish.lua: a number, or a number and an id."""
        if isinstance(answer, int):
            return answer
        related = cls(answer[0])
        related.other = answer[1].decode()
        return related


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An invocation to be taken on. Times are in seconds."""

    queue: str
    id: str
    data: bytes
    """RQ's job data; see `job_data`."""
    description: str = ""
    """What RQ's dashboards show: the same for all invocations of a function."""
    timeout: float = 30
    keep: float = 3600
    max_queue: int = 1_000_000
    delay: float = 0
    track: str = ""
    """The source that wants to know when the event has ended; empty: none does."""
    event: str = ""
    """The event's id; needed with `track`."""
    reply: str = ""
    """The channel on which a publisher waits for the outcome; empty: none does."""
    flow: Flow | None = None
    """What the function's flow control asks for; None: nothing."""


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker asks for of one function."""

    function: str
    queues: tuple[str, ...]
    """The most urgent first."""
    most: int
    """How many invocations it can take."""
    concurrency: int = 0
    """How many attempts may run at once, over all hosts; 0: no limit."""
    batch: Batch | None = None
    interval: float = 0
    """Seconds from one start to the next, over all hosts; 0: no limit."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """An invocation leased to this worker."""

    queue: str
    id: str
    execution: str
    event: bytes
    """The event as JSON."""
    attempt: int
    """1 the first time; every claim counts, also one whose worker died."""
    failures: int
    """Attempts that ended in an error."""
    crashes: int
    """Attempts during which the worker or the environment died."""
    foreign: bool = False
    """Whether another program put it into the queue, and it is no invocation: it cannot be run."""
    told: bool
    """Whether somebody waits for its end: a publisher for the outcome, a source for the event, another for its turn."""
    accepted_ms: int
    """When it was accepted, in Unix milliseconds of our clock, which may be another than the server's."""
    client: bytes = b""
    """What its caller said of itself, as JSON: AWS Lambda's client context. Empty: nothing."""
    qualifier: str = ""
    """The alias or version that its caller asked for; empty: what is live."""


class _Named(msgspec.Struct):
    """The named arguments of `broker.invoke`."""

    client_context: msgspec.Raw = msgspec.Raw()
    qualifier: str = ""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Ledger.claim`."""

    claimed: list[Claimed]
    due_in: dict[str, float]
    """Function -> seconds until something of it that waits falls due; only of functions of which something does."""
    changes: int
    """How many changes to deployed functions there had been; 0 when nothing was claimed."""


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Ledger.recover`."""

    recovered: list[tuple[str, str, int]]
    """(queue, id, crashes) of what went back to the front of its queue."""
    workers: list[str]
    """Those that hold a lease, also one that has run out."""
    suspended: bool
    """Whether `rq suspend` is in force."""


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt ended."""

    verdict: Verdict
    queue: str
    id: str
    execution: str = ""
    keep: float = 3600
    result: bytes = b""
    """The result as JSON, when it finished."""
    error: bytes = b""
    """The error as JSON, when it failed."""
    traceback: str = ""
    delay: float = 0
    reason: str = ""
    """The error's name: `TimedOut`."""
    failed: bool = False
    crashed: bool = False
    stopped: bool = False
    told: bool = False
    """Whether somebody waits for its end; see Claimed."""
    again: bool = False
    """Whether it was not the first attempt."""
    billed_ms: int | None = None
    """None: nothing is metered."""
    megabytes: int = 0
    cold: bool = False
    orders: tuple[Order, ...] = ()
    """What follows from it: the invocation of a destination."""


def job_data(function: str, event: bytes, client: bytes = b"", qualifier: str = "") -> bytes:
    """Return RQ's job data for one invocation: `["broker.invoke", null, ["FUNCTION", EVENT], {}]`.

    It is what RQ's JSONSerializer would write for a call of `broker.invoke(function, event)`; a `client`, as JSON, is
    its third argument, `client_context=CLIENT`, and an alias or version its fourth, `qualifier="3"`.
    """
    named = [b'"client_context":%b' % client] if client else []
    if qualifier:
        named.append(b'"qualifier":"%b"' % qualifier.encode())
    more = b",".join(named)
    return b'["broker.invoke",null,["%b",%b],{%b}]' % (function.encode(), event, more)


def event_of(data: bytes, function: str) -> bytes:
    """Return the event of RQ's job data. Raises ValueError when it is not ours."""
    return call_of(data, function)[0]


def call_of(data: bytes, function: str) -> tuple[bytes, bytes, str]:
    """Return event, client and qualifier of RQ's job data, as a rule without reading the JSON.

    RQ compresses the data when one of its own tools has saved the job. Raises ValueError when it is not ours.
    """
    if not data.startswith(b"["):
        data = zlib.decompress(data)
    start, end = b'["broker.invoke",null,["%b",' % function.encode(), b"],{}]"
    if data.startswith(start) and data.endswith(end):
        return data[len(start) : -len(end)], b"", ""
    name, _, arguments, named = msgspec.json.decode(data, type=tuple[str, object, list[msgspec.Raw], _Named])
    if name != "broker.invoke" or len(arguments) != 2:
        raise ValueError(f"not an invocation of {function}")
    return bytes(arguments[1]), bytes(named.client_context), named.qualifier


def function_of(queue: str) -> str:
    """Return the function whose queue this is: `thumbnail` for `thumbnail.high`."""
    return queue.partition(".")[0]


def iso(moment: datetime) -> str:
    """Return the moment as RQ writes it: `2026-11-23T07:51:07.123456Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Ledger:
    """The invocations that are owed, in one Redis. Every method is one round trip.

    Each raises StoreUnavailable when Redis does not answer, is loading, is full or fails over; then it is not known
    whether the call was carried out, and repeating it is safe.
    """

    def __init__(self, client: Redis, *, log_entries: int = 16384) -> None:
        """Take a client without `decode_responses`; `log_entries` is what a log stream keeps."""
        self.client = client
        self._line = Line(client)
        self._log_entries = log_entries
        folder = Path(__file__).parent
        parts = {
            "publish": ("tracking", "orders"),
            "claim": (),
            "settle": ("tracking", "orders", "dependents"),
            "recover": ("tracking",),
        }
        self._scripts = {
            name: client.register_script(
                "".join((folder / f"{one}.lua").read_text() for one in ("common", *more, name))
            )
            for name, more in parts.items()
        }

    def publish(self, events: Sequence[Sequence[Order]], *, replicas: int = 0) -> list[list[int]]:
        """Take on the invocations of each event: all of an event's, or none of them.

        Returns ACCEPTED, DUPLICATE or FULL for each; see Related. What is accepted is in Redis, and in so many replicas
        of it; when these do not say so in time, StoreUnavailable is raised.
        """
        lines = _Lines()
        arguments: list[Any] = []
        for number, orders in enumerate(events):
            for order in orders:
                arguments.append(number)
                arguments += lines.order(order)
        count = sum(map(len, events))
        if not count:
            return [[] for _ in events]
        flat = [_now(), *lines.arguments(), count, *arguments]
        raw = self._run_copied("publish", flat, replicas) if replicas else self._run("publish", flat)
        answers = map(Related.read, raw)
        return [[next(answers) for _ in orders] for orders in events]

    def claim(self, worker: str, wants: Sequence[Want], execution: int) -> Claim:
        """Lease waiting invocations to `worker`; executions are numbered from `execution`."""
        arguments: list[Any] = []
        for want in wants:
            batch = want.batch
            size, window = (batch.size, int(batch.window * 1000)) if batch else (0, 0)
            arguments += (want.function, want.most, want.concurrency, size, window, want.interval * 1e6)
            arguments += (len(want.queues), *want.queues)
        waits, groups, now_ms, changes = self._run("claim", [worker, _now(), execution, len(wants), *arguments])
        ahead = int(time.time() * 1000) - int(now_ms)
        batched = {want.function for want in wants if want.batch}
        claimed: list[Claimed] = []
        for queue_name, first, jobs in zip(groups[::3], groups[1::3], groups[2::3], strict=True):
            queue = queue_name.decode()
            step = 0 if function_of(queue) in batched else 1
            claimed += _claimed(queue, f"{worker}.", first, step, jobs, ahead=ahead)
        due_in = {name.decode(): ms / 1000 for name, ms in zip(waits[::2], waits[1::2], strict=True)}
        return Claim(claimed=claimed, due_in=due_in, changes=int(changes or 0))

    def settle(
        self,
        worker: str,
        settlements: Sequence[Settlement],
        log: Sequence[tuple[str, bytes]] = (),
        cpu: Mapping[str, int] = NOTHING,
    ) -> list[bool]:
        """Write down how attempts ended; False for those whose lease had passed to another: nothing was changed.

        `log` holds (function, entry) for their log streams; see broker/logs.py. `cpu` holds what processor time each
        function has spent since it was told last, in microseconds. Both are written in any case.
        """
        if not settlements and not log and not cpu:
            return []
        moment = datetime.now(UTC)
        lines = _Lines()
        usual: dict[tuple[str, int, int], list[int]] = {}
        others = []
        prefix = f"{worker}."
        for position, one in enumerate(settlements):
            if _is_usual(one, prefix):
                usual.setdefault((one.queue, _seconds(one.keep), one.megabytes), []).append(position)
            else:
                others.append(position)
        arguments: list[Any] = [len(usual)]
        for (queue, keep, megabytes), positions in usual.items():
            arguments += (queue, keep, megabytes, len(positions))
            for position in positions:
                one = settlements[position]
                billed = "" if one.billed_ms is None else one.billed_ms
                arguments += (one.id, one.execution[len(prefix) :], billed)
        arguments.append(len(others))
        for position in others:
            arguments += _settlement(settlements[position], lines)
        arguments.append(len(log))
        for entry in log:
            arguments += entry
        arguments.append(len(cpu))
        for spent in cpu.items():
            arguments += spent
        head = [worker, iso(moment), moment.date().isoformat(), self._log_entries, *lines.arguments()]
        sent = [*itertools.chain.from_iterable(usual.values()), *others]
        written = [True] * len(settlements)
        for number in self._run("settle", head + arguments):
            written[sent[number - 1]] = False
        return written

    def recover(self, *, worker: str = "", lease: float = 0, dead: Sequence[str] = ()) -> Recovery:
        """Renew the worker's lease (seconds) and take back what dead workers held.

        `dead` names workers that are known to be dead before their lease ran out.
        """
        rows, workers, suspended = self._run("recover", [_now(), worker, int(lease * 1000), len(dead), *dead])
        return Recovery(
            recovered=[(queue.decode(), id_.decode(), crashes) for queue, id_, crashes in rows],
            workers=[name.decode() for name in workers],
            suspended=suspended == 1,
        )

    def held_by(self, worker: str, queues: Iterable[str]) -> list[tuple[str, str, str]]:
        """Return (queue, id, execution) of what is leased to a worker."""
        queues = list(queues)
        pipeline = self.client.pipeline(transaction=False)
        for queue in queues:
            pipeline.zrange(f"rq:wip:{queue}", 0, -1)
        with available():
            answers = pipeline.execute()
        members = [
            (queue, *member.decode().split(":", 1))
            for queue, row in zip(queues, answers, strict=True)
            for member in row
        ]
        return [(queue, id_, run) for queue, id_, run in members if run.rpartition(".")[0] == worker]

    def mark_running(self, claimed: Claimed) -> None:
        """Note that a suspect (an invocation with crashes) really runs now; see recover.lua."""
        with available():
            self.client.hset(f"rq:job:{claimed.id}", "running", claimed.execution)

    def _run(self, name: str, arguments: list[Any]) -> Any:
        script = self._scripts[name]
        with available():
            try:
                return self._line.run(script.sha, arguments)
            except exceptions.NoScriptError:
                self.client.script_load(script.script)
                return self._line.run(script.sha, arguments)
            except exceptions.ConnectionError:
                if name == "claim":  # it may have been carried out, and its execution numbers used
                    raise
                return script(args=arguments)

    def _run_copied(self, name: str, arguments: list[Any], replicas: int) -> Any:
        """Run a script, and return its answer once so many replicas have what it wrote, and all that was there before.

        WAIT waits for the writes of its own connection, and a script that finds duplicates writes nothing: hence SET.
        """
        script = self._scripts[name]
        with available(), self.client.pipeline(transaction=False) as pipeline:
            while True:
                pipeline.evalsha(script.sha, 0, *arguments)
                pipeline.set("broker:copied", b"")
                pipeline.wait(replicas, COPY_WITHIN)
                answers = pipeline.execute(raise_on_error=False)
                if not isinstance(answers[0], exceptions.NoScriptError):
                    break
                self.client.script_load(script.script)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        if answers[2] < replicas:
            raise StoreUnavailable(f"{answers[2]} of {replicas} replicas have it")
        return answers[0]


@contextmanager
def available() -> Iterator[None]:
    """Turn redis' errors that pass by themselves (away, loading, full, failing over) into StoreUnavailable."""
    try:
        yield
    except _AWAY as error:
        raise StoreUnavailable(f"Redis does not take orders: {error}") from error
    except ResponseError as error:
        if any(word in str(error) for word in _TRANSIENT):
            raise StoreUnavailable(f"Redis does not take orders: {error}") from error
        raise


def _now() -> str:
    return iso(datetime.now(UTC))


class _Lines:
    """What many orders of a call share: each distinct (queue, description, timeout, keep, max_queue) is sent once."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, ...], int] = {}

    def order(self, order: Order) -> tuple[Any, ...]:
        """Return the arguments of one order."""
        line = (order.queue, order.description, order.timeout, order.keep, order.max_queue)
        number = self._numbers.setdefault(line, len(self._numbers) + 1)
        extra: dict[str, Any] = {}
        if order.delay > 0:
            extra["delay"] = float(order.delay)
        if order.track:
            extra["track"], extra["event"] = order.track, order.event
        if order.reply:
            extra["reply"] = order.reply
        if order.flow:
            extra["flow"] = order.flow
        return number, order.id, order.data, msgspec.json.encode(extra) if extra else b""

    def arguments(self) -> list[Any]:
        """Return the arguments that go before the orders."""
        arguments: list[Any] = [len(self._numbers)]
        for queue, description, timeout, keep, max_queue in self._numbers:
            arguments += (queue, description, max(1, round(timeout)), _seconds(keep), max_queue)
        return arguments


def _claimed(
    queue: str, prefix: str, number: int, step: int, jobs: Sequence[bytes], *, ahead: int
) -> Iterator[Claimed]:
    """Yield what claim.lua tells of one queue; executions are numbered from `number` by `step`.

    Our clock is `ahead` milliseconds ahead of the server's.
    """
    function = function_of(queue)
    for id_, data, at, seldom in zip(jobs[::4], jobs[1::4], jobs[2::4], jobs[3::4], strict=True):
        attempt, failures, crashes, told = map(int, seldom.split()) if seldom else (1, 0, 0, 0)
        try:
            (event, client, qualifier), foreign = call_of(data, function), False
        except (ValueError, zlib.error):
            event, client, qualifier, foreign = b"null", b"", "", True
        yield Claimed(
            queue=queue,
            id=id_.decode(),
            execution=f"{prefix}{number:x}",
            event=event,
            foreign=foreign,
            attempt=attempt,
            failures=failures,
            crashes=crashes,
            told=told == 1,
            accepted_ms=int(at or 0) + ahead,
            client=client,
            qualifier=qualifier,
        )
        number += step


def _is_usual(one: Settlement, prefix: str) -> bool:
    """Return whether nothing is to be written but that it has finished; settle.lua does that faster."""
    return (
        one.verdict == "finished"
        and one.result in {b"null", b""}
        and not (one.told or one.again or one.cold or one.failed or one.orders)
        and one.execution.startswith(prefix)
    )


def _seconds(keep: float) -> int:
    return max(1, round(keep))


def _settlement(settlement: Settlement, lines: _Lines) -> list[Any]:
    finished = settlement.verdict == "finished"
    details: dict[str, Any] = {
        name: True for name in ("failed", "crashed", "stopped", "cold", "again", "told") if getattr(settlement, name)
    }
    if settlement.delay:
        details["delay"] = settlement.delay
    if settlement.reason:
        details["reason"] = settlement.reason
    if settlement.verdict == "dead":
        details["error"] = base64.b64encode(zlib.compress(settlement.traceback.encode())).decode()
    if settlement.told:
        details["body"] = (settlement.result if finished else settlement.error).decode()
    return [
        settlement.verdict,
        settlement.queue,
        settlement.id,
        settlement.execution,
        base64.b64encode(settlement.result) if finished and settlement.result != b"null" else b"",
        _seconds(settlement.keep),
        "" if settlement.billed_ms is None else settlement.billed_ms,
        settlement.megabytes,
        msgspec.json.encode(details) if details else b"",
        len(settlement.orders),
        *[value for order in settlement.orders for value in lines.order(order)],
    ]
