"""Values: what goes into the ledger and comes out of it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from broker.flow import Flow
from broker.function import Batch

Verdict = Literal["finished", "retry", "dead", "release", "replay", "drop"]

ACCEPTED, DUPLICATE, FULL = 1, 0, -1


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
    offer: int = 0
    """The number of an execution as which the next invocation may be handed over, if there is none now; 0: none may
    that may not yet, negative: none any more."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An invocation leased to this worker."""

    queue: str
    id: str
    execution: str
    event: bytes
    """The event as JSON."""
    attempt: int = 1
    """1 the first time; every claim counts, also one whose worker died."""
    failures: int = 0
    """Attempts that ended in an error."""
    crashes: int = 0
    """Attempts during which the worker or the environment died."""
    foreign: bool = False
    """Whether another program put it into the queue, and it is no invocation: it cannot be run."""
    told: bool = False
    """Whether somebody waits for its end: a publisher for the outcome, a source for the event, another for its turn."""
    accepted_ms: int
    """When it was accepted, in Unix milliseconds of our clock, which may be another than the server's."""
    client: bytes = b""
    """What its caller said of itself, as JSON: AWS Lambda's client context. Empty: nothing."""
    qualifier: str = ""
    """The alias or version that its caller asked for; empty: what is live."""


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


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How one attempt ended."""

    verdict: Verdict
    queue: str
    id: str
    execution: str = ""
    others: tuple[str, ...] = ()
    """The ids of others of its batch and queue that ended as it did; they are not billed once more."""
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

    @property
    def ids(self) -> tuple[str, ...]:
        """Of all that it is about."""
        return (self.id, *self.others)
