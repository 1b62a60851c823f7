"""Inspection: is every invocation in exactly the one place that its status says? Reads all there is.

The places are read while work goes on, so what looks wrong at first is looked at again, at the end in a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from broker.ledger.ledger import available
from broker.ledger.reading import grouped

if TYPE_CHECKING:
    from redis import Redis

PAGE = 1000
"""How many entries are read in one call."""

PASSES, FEW = 5, 100
"""What moves while it is looked at looks wrong. Such are looked at again until they are few enough for a look at each
in a transaction, which takes a search through its queue."""

_JOB, _QUEUE = "rq:job:", "rq:queue:"
_PLACES = {
    "queued": ("queue",),
    "scheduled": ("scheduled",),
    "deferred": ("deferred",),
    "started": ("wip",),
    "finished": ("finished",),
    "failed": ("failed",),
    "stopped": ("failed",),
    "canceled": ("canceled", "superseded"),
}
"""Status -> the places in one of which it may be, as Redis' keys call them."""

_SETS = ("scheduled", "deferred", "wip", "finished", "failed", "canceled", "superseded")

_EXPIRING = {"finished", "superseded"}
"""Places in which records expire; those sets are tidied up now and then only, RQ's way."""

Spot = tuple[str, str]
"""A place and a queue."""


class Misplaced(msgspec.Struct, frozen=True, kw_only=True):
    """An invocation that is not where it must be."""

    id: str
    status: str
    """Empty: it has no record."""
    queue: str
    """The queue that its record names; empty without one."""
    found: tuple[str, ...]
    """The keys in which it is."""


def misplaced(client: Redis, names: Sequence[str]) -> Iterator[Misplaced]:
    """Yield the invocations of these queues that are nowhere, in a wrong place, or in more than one.

    Raises StoreUnavailable.
    """
    suspects: dict[str, set[str]] | None = None
    for _ in range(PASSES):
        suspects = _suspects(client, names, None if suspects is None else list(suspects))
        if len(suspects) <= FEW:
            break
    for id_, queues in sorted((suspects or {}).items()):
        yield from _look_again(client, id_, queues)


def _suspects(client: Redis, names: Sequence[str], ids: Sequence[str] | None) -> dict[str, set[str]]:
    """Return which of these invocations (None: of all) look wrong, each with the queues that it may be in."""
    places = _read_places(client, names)
    found: dict[str, set[str]] = {}
    seen = set()
    for id_, status, queue in _records(client, ids):
        seen.add(id_)
        spots = places.get(id_, ())
        if queue in names and not _fits(status, queue, spots):
            found[id_] = {queue, *(name for _, name in spots)}
    for id_ in places.keys() - seen if ids is None else places.keys() & set(ids) - seen:
        if any(place not in _EXPIRING for place, _ in places[id_]):
            found[id_] = {name for _, name in places[id_]}
    return found


def _read_places(client: Redis, names: Iterable[str]) -> dict[str, tuple[Spot, ...]]:
    places: dict[str, tuple[Spot, ...]] = {}
    for name in names:
        spots: dict[str, tuple[Spot, ...]] = {place: ((place, name),) for place in ("queue", *_SETS)}
        for place, id_ in _members(client, name):
            there = places.get(id_)
            places[id_] = spots[place] if there is None else (*there, (place, name))
    return places


def _members(client: Redis, name: str) -> Iterator[tuple[str, str]]:
    start = 0
    page: Any = True
    while page:
        with available():
            page = client.lrange(f"{_QUEUE}{name}", start, start + PAGE - 1)
        yield from (("queue", id_.decode()) for id_ in page)
        start += PAGE
    for place in _SETS:
        with available():
            for member, _ in client.zscan_iter(_key(place, name), count=PAGE):
                yield place, _id(member)


def _records(client: Redis, ids: Sequence[str] | None) -> Iterator[tuple[str, str, str]]:
    """Yield id, status and queue of these records (None: of all); one may come twice."""
    for page in _scan(client) if ids is None else grouped(ids, PAGE):
        pipeline = client.pipeline(transaction=False)
        for id_ in page:
            pipeline.hmget(f"{_JOB}{id_}", "status", "origin")
        with available():
            answers = pipeline.execute()
        for id_, (status, origin) in zip(page, answers, strict=True):
            if status is not None:
                yield id_, status.decode(), (origin or b"").decode()


def _scan(client: Redis) -> Iterator[list[str]]:
    cursor = -1
    while cursor:
        with available():
            answer: Any = client.scan(max(cursor, 0), match=f"{_JOB}*", count=PAGE)
        cursor, keys = answer
        ids = (key.decode().removeprefix(_JOB) for key in keys)
        yield [id_ for id_ in ids if ":" not in id_]  # RQ keeps what depends on a job beside it


def _look_again(client: Redis, id_: str, names: set[str]) -> Iterator[Misplaced]:
    """Yield the invocation if it is misplaced at one moment."""
    queues = sorted(names)
    pipeline = client.pipeline(transaction=True)
    pipeline.hmget(f"{_JOB}{id_}", "status", "origin")
    for name in queues:
        pipeline.lpos(f"{_QUEUE}{name}", id_, count=0)
        pipeline.zrange(f"rq:wip:{name}", 0, -1)
        for place in _SETS:
            pipeline.zscore(_key(place, name), id_)
    with available():
        (status, origin), *answers = pipeline.execute()
    found: list[Spot] = []
    replies: Iterator[Any] = iter(answers)
    for name in queues:
        found += [("queue", name)] * len(next(replies))
        found += [("wip", name)] * sum(_id(member) == id_ for member in next(replies))
        found += [(place, name) for place in _SETS if next(replies) is not None]
    status, queue = (status or b"").decode(), (origin or b"").decode()
    gone = not status and all(place in _EXPIRING for place, _ in found)
    if not gone and not _fits(status, queue, found):
        yield Misplaced(id=id_, status=status, queue=queue, found=tuple(_key(place, name) for place, name in found))


def _fits(status: str, queue: str, spots: Sequence[Spot]) -> bool:
    if status == "canceled":  # one that was cancelled while it ran keeps its lease until its attempt has ended
        spots = [spot for spot in spots if spot[0] != "wip"]
    return len(spots) == 1 and spots[0][0] in _PLACES.get(status, ()) and spots[0][1] == queue


def _key(place: str, name: str) -> str:
    return f"broker:superseded:{name}" if place == "superseded" else f"rq:{place}:{name}"


def _id(member: bytes) -> str:
    """Return the id of a member; a lease is ID:EXECUTION."""
    return member.partition(b":")[0].decode()
