"""Stock: what the ledger must know when a worker of RQ itself, not one of ours, runs an invocation.

Such a worker takes the job from its queue and leases it (`rq:wip:QUEUE`) on its own, so the ends of an attempt can be
settled like any other, under the execution that RQ leased it with. Only a retry is RQ's own doing: it moves the job.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from broker.ledger.jobs import function_of
from broker.ledger.ledger import available
from broker.ledger.values import Claimed, Settlement

if TYPE_CHECKING:
    from redis import Redis

KEEP_USAGE = 400 * 86400
"""Seconds for which a day's usage is kept; common.lua has the same."""


def count_attempt(
    client: Redis, *, queue: str, id_: str, execution: str, event: bytes, client_context: bytes
) -> Claimed:
    """Count an attempt that RQ's worker begins, and return what a claim would have told.

    `execution` is RQ's, `event` and `client_context` (or nothing) are JSON. Raises StoreUnavailable.
    """
    key = f"rq:job:{id_}"
    pipeline = client.pipeline(transaction=True)
    pipeline.hincrby(key, "attempt", 1)
    pipeline.hmget(key, "failures", "crashes", "at", "track", "reply", "turn")
    with available():
        attempt, (failures, crashes, at, *waiting) = pipeline.execute()
    return Claimed(
        queue=queue,
        id=id_,
        execution=execution,
        event=event,
        attempt=attempt,
        failures=int(failures or 0),
        crashes=int(crashes or 0),
        told=any(one is not None for one in waiting),
        accepted_ms=int(at or 0),
        client=client_context,
    )


def count_failure(client: Redis, settlement: Settlement) -> None:
    """Count and bill a failed attempt that RQ's worker is about to queue again. Raises StoreUnavailable."""
    key, billed_ms = f"rq:job:{settlement.id}", settlement.billed_ms or 0
    usage = f"broker:usage:{datetime.now(UTC).date().isoformat()}:{function_of(settlement.queue)}"
    bill: dict[str, Any] = {
        "requests": 1,
        "errors": 1,
        "billed_ms": billed_ms,
        "mb_ms": billed_ms * settlement.megabytes,
        "cold_starts": int(settlement.cold),
    }
    pipeline = client.pipeline(transaction=True)
    pipeline.hincrby(key, "failures", 1)
    pipeline.hincrby(key, "crashes", int(settlement.crashed))
    pipeline.hset(key, "reason", settlement.reason)
    for field, amount in bill.items():
        pipeline.hincrby(usage, field, amount)
    pipeline.expire(usage, KEEP_USAGE)
    with available():
        pipeline.execute()
