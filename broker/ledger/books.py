"""The books: how many invocations of each queue are where, and whether that adds up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from redis import Redis


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The books of one queue. Every accepted invocation is in exactly one of the places, or ended."""

    queue: str
    accepted: int
    queued: int
    scheduled: int
    deferred: int
    """Waiting for its turn: another of the same key is to end first."""
    leased: int
    dead: int
    finished: int
    dropped: int
    cancelled: int
    superseded: int
    """Not run, since a later event of its key came within its `debounce`."""
    vanished: int
    """Deleted by another tool while it waited or ran."""

    @property
    def missing(self) -> int:
        """How many accepted invocations are nowhere (more than 0) or somewhere twice (less than 0)."""
        ended = self.finished + self.dropped + self.cancelled + self.superseded + self.vanished
        return self.accepted - (self.queued + self.scheduled + self.deferred + self.leased + self.dead + ended)


def audit(client: Redis) -> list[Account]:
    """Return the books of every queue, by name, all of one moment (one transaction)."""
    prefix = b"rq:queue:"
    keys: Any = client.smembers("rq:queues")
    queues = sorted(key.removeprefix(prefix).decode() for key in keys)
    pipeline = client.pipeline(transaction=True)
    for queue in queues:
        pipeline.hgetall(f"broker:books:{queue}")
        pipeline.llen(f"rq:queue:{queue}")
        for place in ("scheduled", "deferred", "wip", "failed", "canceled"):
            pipeline.zcard(f"rq:{place}:{queue}")
    answers = iter(pipeline.execute())
    accounts = []
    for queue in queues:
        sums = {field.decode(): int(value) for field, value in next(answers).items()}
        queued, scheduled, deferred, leased, dead, cancelled = (next(answers) for _ in range(6))
        accounts.append(
            Account(
                queue=queue,
                accepted=sums.get("accepted", 0),
                queued=queued,
                scheduled=scheduled,
                deferred=deferred,
                leased=leased,
                dead=dead,
                finished=sums.get("finished", 0),
                dropped=sums.get("dropped", 0),
                cancelled=cancelled,
                superseded=sums.get("superseded", 0),
                vanished=sums.get("vanished", 0),
            )
        )
    return accounts
