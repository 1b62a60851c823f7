"""Reading: look up invocations without changing anything; every look is bounded, however much is in Redis."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import msgspec

from broker.errors import UnknownInvocation
from broker.ledger.jobs import event_of, function_of
from broker.ledger.ledger import available

if TYPE_CHECKING:
    from redis import Redis

Status = Literal["queued", "scheduled", "deferred", "started", "finished", "failed", "canceled"]

STATUSES: tuple[Status, ...] = get_args(Status)

SHORTEST_PREFIX = 6
"""How many digits of an id are enough to name an invocation of the last time."""

DEEP = 1000
"""How many ids are looked at where Redis does not keep the order that is asked for: leases and dead letters."""

LARGEST_EVENT = 64 << 10
"""Bytes of job data up to which a listing reads it, for the event's id and source."""

GROUP = 500
"""How many records go into one round trip."""

Item = TypeVar("Item")

_QUEUE = "rq:queue:"
_FIELDS = (
    *("origin", "status", "attempt", "failures", "crashes", "at"),
    *("started_at", "ended_at", "enqueued_at", "reason", "worker_name"),
)


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger knows of one invocation."""

    id: str
    function: str
    queue: str
    status: str
    """One of STATUSES, or RQ's `stopped`: a dead letter that somebody stopped."""
    attempt: int
    """How often it was begun."""
    failures: int
    crashes: int
    accepted: datetime | None
    started: datetime | None
    """When its last attempt began."""
    ended: datetime | None
    """When it finished, became a dead letter or was superseded; None before."""
    reason: str
    """The name of the last error, if there was one."""
    worker: str

    @property
    def duration(self) -> float | None:
        """Seconds from the begin of the last attempt to the end; None while there is no end."""
        return (self.ended - self.started).total_seconds() if self.ended and self.started else None


class Head(msgspec.Struct, frozen=True):
    """Of an event, which one it is."""

    id: str = ""
    source: str = ""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt ended, as RQ keeps it."""

    time: datetime
    ok: bool
    body: str
    """The result as JSON, or the error as text, with its traceback."""
    worker: str


def queues(client: Redis, functions: Iterable[str] | None = None) -> list[str]:
    """Return the names of the queues there are, of some functions or of all, sorted."""
    with available():
        found: Any = client.smembers("rq:queues")
    names = sorted(key.decode().removeprefix(_QUEUE) for key in found)
    if functions is None:
        return names
    wanted = set(functions)
    return [name for name in names if function_of(name) in wanted]


def recent(
    client: Redis, names: Sequence[str], *, statuses: Sequence[Status] = STATUSES, limit: int = 20
) -> list[Invocation]:
    """Return the `limit` newest invocations in these queues, by the moment at which they were accepted.

    Of each place of each queue only the last few are looked at, so what is listed can lack one that was accepted
    lately and has waited long, or the other way round.
    """
    found = [one for one in _fetch(client, _candidates(client, names, statuses, limit)) if _is(one, statuses)]
    found.reverse()  # of what was accepted in one millisecond, the last of the queue comes first
    epoch = datetime.fromtimestamp(0, UTC)
    return sorted(found, key=lambda one: (one.accepted or epoch, one.ended or epoch), reverse=True)[:limit]


def fetch(client: Redis, id_: str) -> Invocation:
    """Return one invocation. Raises UnknownInvocation."""
    for one in _fetch(client, [id_]):
        return one
    raise UnknownInvocation(f"there is no invocation {id_}; ended ones are forgotten after the function's `keep`")


def resolve(client: Redis, names: Sequence[str], text: str) -> str:
    """Return the id that is meant: itself, or the only one of those of the last time that begins with it.

    Raises UnknownInvocation when none or several do, or fewer than SHORTEST_PREFIX digits are given.
    """
    with available():
        if client.exists(f"rq:job:{text}"):
            return text
    if len(text) < SHORTEST_PREFIX:
        raise UnknownInvocation(f"there is no invocation {text}; give at least {SHORTEST_PREFIX} digits of its id")
    found = sorted({id_ for id_ in _candidates(client, names, STATUSES, DEEP) if id_.startswith(text)})
    if not found:
        raise UnknownInvocation(f"no recent invocation begins with {text}; give its whole id")
    if len(found) > 1:
        raise UnknownInvocation(f"{len(found)} invocations begin with {text}: {', '.join(found[:5])}")
    return found[0]


def heads(client: Redis, invocations: Sequence[Invocation]) -> dict[str, Head]:
    """Return which event each invocation is about; without those whose event is large or cannot be read."""
    small = [one for one, size in zip(invocations, _sizes(client, invocations), strict=True) if size <= LARGEST_EVENT]
    found = {}
    for group in grouped(small):
        pipeline = client.pipeline(transaction=False)
        for one in group:
            pipeline.hget(f"rq:job:{one.id}", "data")
        with available():
            answers = pipeline.execute()
        for one, data in zip(group, answers, strict=True):
            try:
                found[one.id] = _head(event_of(data or b"", one.function))
            except (ValueError, zlib.error):
                continue  # another tool's job in one of our queues; `show` says what is wrong with it
    return found


def _head(text: bytes) -> Head:
    try:
        return msgspec.json.decode(text, type=Head)
    except msgspec.DecodeError:  # half a surrogate pair is too little for it: the name of a file that is not UTF-8
        return msgspec.convert(json.loads(text), type=Head)


def event(client: Redis, invocation: Invocation) -> bytes:
    """Return the event of an invocation as JSON. Raises UnknownInvocation when it is none of ours."""
    with available():
        data: Any = client.hget(f"rq:job:{invocation.id}", "data")
    try:
        return event_of(data or b"", invocation.function)
    except (ValueError, zlib.error) as error:
        raise UnknownInvocation(f"{invocation.id} is no invocation of a function of ours: {error}") from error


def endings(client: Redis, id_: str) -> list[Ending]:
    """Return how attempts of an invocation ended, as far as RQ keeps it, the last one first."""
    with available():
        rows: Any = client.xrevrange(f"rq:results:{id_}", count=10)
    return [_ending(entry, fields) for entry, fields in rows]


def dead(client: Redis, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (queue, id) of every dead letter that is there when its page is read."""
    for name in names:
        start = 0
        while True:
            with available():
                page: Any = client.zrange(f"rq:failed:{name}", start, start + GROUP - 1)
            yield from ((name, id_.decode()) for id_ in page)
            if len(page) < GROUP:
                break
            start += GROUP


def _is(one: Invocation, statuses: Sequence[Status]) -> bool:
    return one.status in statuses or (one.status == "stopped" and "failed" in statuses)


def _candidates(client: Redis, names: Sequence[str], statuses: Sequence[Status], limit: int) -> list[str]:
    """Return ids from the near end of each place; an invocation that moves meanwhile is named once."""
    pipeline = client.pipeline(transaction=False)
    for name in names:
        for status in statuses:
            if status == "queued":
                pipeline.lrange(f"{_QUEUE}{name}", -limit, -1)
            elif status == "scheduled":
                pipeline.zrange(f"rq:scheduled:{name}", 0, limit - 1)
            elif status == "started":
                pipeline.zrange(f"rq:wip:{name}", 0, DEEP - 1)
            elif status == "failed":
                pipeline.zrevrange(f"rq:failed:{name}", 0, max(limit, DEEP) - 1)
            else:
                pipeline.zrevrange(f"rq:{status}:{name}", 0, limit - 1)
                if status == "canceled":
                    pipeline.zrevrange(f"broker:superseded:{name}", 0, limit - 1)
    with available():
        answers = pipeline.execute()
    # What runs is kept as ID:EXECUTION.
    return list(dict.fromkeys(id_.partition(b":")[0].decode() for answer in answers for id_ in answer))


def _fetch(client: Redis, ids: Sequence[str]) -> Iterator[Invocation]:
    for group in grouped(ids):
        pipeline = client.pipeline(transaction=False)
        for id_ in group:
            pipeline.hmget(f"rq:job:{id_}", _FIELDS)
        with available():
            answers = pipeline.execute()
        for id_, values in zip(group, answers, strict=True):
            if values[0] is not None and values[1] is not None:  # it may have been forgotten meanwhile
                yield _invocation(id_, dict(zip(_FIELDS, (_text(value) for value in values), strict=True)))


def _invocation(id_: str, fields: dict[str, str]) -> Invocation:
    ended = _moment(fields["ended_at"]) if fields["status"] in {"finished", "failed", "stopped", "canceled"} else None
    return Invocation(
        id=id_,
        function=function_of(fields["origin"]),
        queue=fields["origin"],
        status=fields["status"],
        attempt=int(fields["attempt"] or 0),
        failures=int(fields["failures"] or 0),
        crashes=int(fields["crashes"] or 0),
        accepted=(
            datetime.fromtimestamp(int(fields["at"]) / 1000, UTC) if fields["at"] else _moment(fields["enqueued_at"])
        ),
        started=_moment(fields["started_at"]),
        ended=ended,
        reason=fields["reason"],
        worker=fields["worker_name"],
    )


def _sizes(client: Redis, invocations: Sequence[Invocation]) -> list[int]:
    sizes: list[int] = []
    for group in grouped(invocations):
        pipeline = client.pipeline(transaction=False)
        for one in group:
            pipeline.hstrlen(f"rq:job:{one.id}", "data")
        with available():
            sizes += pipeline.execute()
    return sizes


def _ending(entry: bytes, fields: dict[bytes, bytes]) -> Ending:
    ok = fields[b"type"] == b"1"
    packed = base64.b64decode(fields.get(b"return_value" if ok else b"exc_string", b""))
    return Ending(
        time=datetime.fromtimestamp(int(entry.partition(b"-")[0]) / 1000, UTC),
        ok=ok,
        body=(packed if ok or not packed else zlib.decompress(packed)).decode(errors="replace"),
        worker=_text(fields.get(b"worker_name")),
    )


def grouped(items: Sequence[Item], size: int = GROUP) -> Iterator[Sequence[Item]]:
    """Yield the items in groups of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _moment(text: str) -> datetime | None:
    """Read a time as RQ writes it, in UTC."""
    return datetime.fromisoformat(text) if text else None
