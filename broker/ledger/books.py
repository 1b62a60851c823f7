"""The books: how many invocations of each queue are where, and whether that adds up."""

from __future__ import annotations

from pathlib import Path
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
    """Return the books of every queue, by name, all of one moment."""
    script = (Path(__file__).parent / "audit.lua").read_text()
    rows: Any = client.eval(script, 0)
    return sorted(map(_account, rows), key=lambda account: account.queue)


def _account(row: list[Any]) -> Account:
    queue, *lengths = row[:7]
    places = dict(zip(("queued", "scheduled", "deferred", "leased", "dead", "cancelled"), lengths, strict=True))
    sums = {field.decode(): int(value) for field, value in zip(row[7::2], row[8::2], strict=True)}
    counted = {name: sums.get(name, 0) for name in ("accepted", "finished", "dropped", "superseded", "vanished")}
    return Account(queue=queue.decode(), **places, **counted)


def write_off(client: Redis, account: Account) -> int:
    """Count what is missing in an account as vanished, when it was deleted by another tool; how much that was."""
    missing = max(0, account.missing)
    if missing:
        client.hincrby(f"broker:books:{account.queue}", "vanished", missing)
    return missing
