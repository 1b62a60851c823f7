"""Ledger: publish, claim, settle and recover invocations; each is one script and one round trip.

What the scripts do and which keys they write is told in docs/ledger.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions
from redis.exceptions import ResponseError

from broker.errors import StoreUnavailable
from broker.ledger import calls
from broker.ledger.line import Line
from broker.ledger.scripts import scripts

if TYPE_CHECKING:
    from types import TracebackType

    from redis import Redis

    from broker.ledger.calls import Answer, Call
    from broker.ledger.values import Claim, Claimed, Order, Recovery, Settlement, Want

WAKE = "broker:wake"
"""The channel on which a queue's name is published when something begins to wait in it."""

HANDED = "broker:handed:"
"""Before a worker's name: the channel on which it is told what was handed over to it."""

COPY_WITHIN = 1000
"""Milliseconds in which replicas have to say that they have what was published."""

_AWAY = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.ClusterDownError,  # also a replica whose master is gone: MASTERDOWN
    exceptions.TryAgainError,
    exceptions.NoScriptError,  # the server was started anew between our loading the script and calling it
    OSError,
)
_TRANSIENT = ("MISCONF", "OOM", "LOADING", "READONLY", "NOREPLICAS", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "BUSY ")
"""Words in errors that redis-py has no class for, as for what Redis 6.2 puts inside a script's own error."""


class Ledger:
    """The invocations that are owed, in one Redis. Every method is one round trip.

    Each raises StoreUnavailable when Redis does not answer, is loading, is full or fails over; then it is not known
    whether the call was carried out, and repeating it is safe.
    """

    def __init__(self, client: Redis, *, log_entries: int = 16384) -> None:
        """Take a client without `decode_responses`; `log_entries` is what a log stream keeps."""
        self.client = client
        self._line = Line(client)
        self.log_entries = log_entries
        self.scripts = {name: client.register_script(text) for name, text in scripts()}

    def publish(self, events: Sequence[Sequence[Order]], *, replicas: int = 0) -> list[list[int]]:
        """Take on the invocations of each event: all of an event's, or none of them.

        Returns ACCEPTED, DUPLICATE or FULL for each; see Related. What is accepted is in Redis, and in so many replicas
        of it; when these do not say so in time, StoreUnavailable is raised.
        """
        if not any(events):
            return [[] for _ in events]
        call = calls.publish(events)
        return call.read(self._run_copied(call, replicas)) if replicas else self.run(call)

    def claim(self, worker: str, wants: Sequence[Want], execution: int) -> Claim:
        """Lease waiting invocations to `worker`; executions are numbered from `execution`."""
        return self.run(calls.claim(worker, wants, execution))

    def settle(
        self,
        worker: str,
        settlements: Sequence[Settlement],
        log: Sequence[tuple[str, bytes]] = (),
        cpu: Mapping[str, int] = calls.NOTHING,
        telling: int = 0,
    ) -> list[bool]:
        """Write down how attempts ended; False for those whose lease had passed to another: nothing was changed.

        The answers are those of all invocations, one after another, also of the `others` of a settlement.

        `log` holds (function, entry) for their log streams; see broker/logs.py. `cpu` holds what processor time each
        function has spent since it was told last, in microseconds. Both are written in any case, but only once when the
        call is repeated with the same `telling`, which must be none of the worker's calls before.
        """
        if not settlements and not log and not cpu:
            return []
        return self.run(calls.settle(worker, settlements, log, cpu, telling=telling, log_entries=self.log_entries))

    def recover(self, *, worker: str = "", lease: float = 0, dead: Sequence[str] = ()) -> Recovery:
        """Renew the worker's lease (seconds) and take back what dead workers held.

        `dead` names workers that are known to be dead before their lease ran out.
        """
        return self.run(calls.recover(worker, lease, dead))

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

    def run(self, call: Call[Answer]) -> Answer:
        """Make a call, and wait for its answer."""
        script = self.scripts[call.script]
        with available():
            try:
                raw = self._line.run(script.sha, call.arguments)
            except exceptions.NoScriptError:
                self.client.script_load(script.script)
                raw = self._line.run(script.sha, call.arguments)
            except exceptions.ConnectionError:
                if call.script == "claim":  # it may have been carried out, and its execution numbers used
                    raise
                raw = script(args=call.arguments)
        return call.read(raw)

    def _run_copied(self, call: Call[Any], replicas: int) -> Any:
        """Run a script, and return its answer once so many replicas have what it wrote, and all that was there before.

        WAIT waits for the writes of its own connection, and a script that finds duplicates writes nothing: hence SET.
        """
        script = self.scripts[call.script]
        with available(), self.client.pipeline(transaction=False) as pipeline:
            while True:
                pipeline.evalsha(script.sha, 0, *call.arguments)
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


class available:  # noqa: N801 -- as contextlib names what is used in this way; a class, for it is on everybody's way
    """Turn redis' errors that pass by themselves (away, loading, full, failing over) into StoreUnavailable."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise StoreUnavailable in place of an error that passes."""
        if error is not None and _passes(error):
            raise StoreUnavailable(f"Redis does not take orders: {error}") from error


def _passes(error: BaseException) -> bool:
    if isinstance(error, ResponseError) and not isinstance(error, _AWAY):
        return any(word in str(error) for word in _TRANSIENT)
    return isinstance(error, _AWAY)
