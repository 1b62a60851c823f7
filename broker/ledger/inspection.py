"""Inspection: is every invocation in exactly the one place that its status says? Reads all there is.

The places are read while work goes on, so what looks wrong at first is looked at once more, in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from broker.ledger.ledger import available

if TYPE_CHECKING:
    from redis import Redis

PAGE = 1000

_JOB, _QUEUE = "rq:job:", "rq:queue:"
_PLACES = {
    "queued": "queue",
    "scheduled": "scheduled",
    "started": "wip",
    "finished": "finished",
    "failed": "failed",
    "stopped": "failed",
    "canceled": "canceled",
}
"""Status -> the place, as Redis' key calls it: `rq:PLACE:QUEUE`."""

_SETS = ("scheduled", "wip", "finished", "failed", "canceled")

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
    places = _read_places(client, names)
    for id_, status, queue in _records(client):
        spots = places.pop(id_, ())
        if queue in names and spots != ((_PLACES.get(status, ""), queue),):
            yield from _look_again(client, id_, {queue, *(name for _, name in spots)})
    for id_, spots in places.items():
        # The registry of what finished is tidied up now and then only, RQ's way.
        if any(place != "finished" for place, _ in spots):
            yield from _look_again(client, id_, {name for _, name in spots})


def _read_places(client: Redis, names: Iterable[str]) -> dict[str, tuple[Spot, ...]]:
    places: dict[str, tuple[Spot, ...]] = {}
    for name in names:
        spots: dict[str, tuple[Spot, ...]] = {place: ((place, name),) for place in _PLACES.values()}
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
            for member, _ in client.zscan_iter(f"rq:{place}:{name}", count=PAGE):
                yield place, _id(member)


def _records(client: Redis) -> Iterator[tuple[str, str, str]]:
    """Yield id, status and queue of every record; a record may come twice."""
    cursor = -1
    while cursor:
        pipeline = client.pipeline(transaction=False)
        with available():
            page: Any = client.scan(max(cursor, 0), match=f"{_JOB}*", count=PAGE)
        cursor, keys = page
        ids = [key.decode().removeprefix(_JOB) for key in keys]
        ids = [id_ for id_ in ids if ":" not in id_]  # RQ keeps what depends on a job beside it
        for id_ in ids:
            pipeline.hmget(f"{_JOB}{id_}", "status", "origin")
        with available():
            answers = pipeline.execute()
        for id_, (status, origin) in zip(ids, answers, strict=True):
            if status is not None:
                yield id_, status.decode(), (origin or b"").decode()


def _look_again(client: Redis, id_: str, names: set[str]) -> Iterator[Misplaced]:
    """Yield the invocation if it is misplaced at one moment."""
    queues = sorted(names)
    pipeline = client.pipeline(transaction=True)
    pipeline.hmget(f"{_JOB}{id_}", "status", "origin")
    for name in queues:
        pipeline.lpos(f"{_QUEUE}{name}", id_, count=0)
        pipeline.zrange(f"rq:wip:{name}", 0, -1)
        for place in _SETS:
            pipeline.zscore(f"rq:{place}:{name}", id_)
    with available():
        (status, origin), *answers = pipeline.execute()
    found: list[Spot] = []
    replies: Iterator[Any] = iter(answers)
    for name in queues:
        found += [("queue", name)] * len(next(replies))
        found += [("wip", name)] * sum(_id(member) == id_ for member in next(replies))
        found += [(place, name) for place in _SETS if next(replies) is not None]
    status, queue = (status or b"").decode(), (origin or b"").decode()
    gone = not status and all(place == "finished" for place, _ in found)
    if not gone and found != [(_PLACES.get(status, ""), queue)]:
        yield Misplaced(id=id_, status=status, queue=queue, found=tuple(f"rq:{place}:{name}" for place, name in found))


def _id(member: bytes) -> str:
    """Return the id of a member; a lease is ID:EXECUTION."""
    return member.partition(b":")[0].decode()
