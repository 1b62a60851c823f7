"""Drives a ledger directly, one short call a move, for the tests of flow control."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from broker.flow import Flow
from broker.function import Batch
from broker.ledger import Ledger, Order, Settlement, Want, audit
from broker.ledger.inspection import misplaced
from broker.ledger.jobs import job_data

if TYPE_CHECKING:
    import redis

    from broker.ledger import Account, Claim, Claimed


class Driver:
    """A ledger whose orders are for the function `f`, unless said otherwise."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.ledger = Ledger(client)

    def order(self, id: str, queue: str = "f", *, key: str = "", **more: object) -> Order:
        """Return an order; with a key it takes turns. Fields of Flow may be given among the others."""
        wanted = {name: more.pop(name) for name in Flow.__struct_fields__ if name in more}
        if key:
            wanted["turn"] = f"f:{key}"
        flow = Flow(**wanted) if wanted else None
        return Order(queue=queue, id=id, data=job_data("f", json.dumps({"id": id}).encode()), flow=flow, **more)

    def publish(self, *orders: Order) -> list[int]:
        return [answer for (answer,) in self.ledger.publish([[one] for one in orders])]

    def claim(
        self,
        n: int = 10,
        worker: str = "w",
        *,
        queues: tuple[str, ...] = ("f",),
        interval: float = 0,
        batch: int = 0,
        concurrency: int = 0,
    ) -> Claim:
        want = Want(
            function="f",
            queues=queues,
            most=n,
            concurrency=concurrency,
            batch=Batch(size=batch) if batch else None,
            interval=interval,
        )
        return self.ledger.claim(worker, [want], int.from_bytes(os.urandom(4)))

    def take(self, n: int = 10, worker: str = "w", **how: object) -> list[str]:
        """Claim; the ids."""
        return [one.id for one in self.claim(n, worker, **how).claimed]

    def settle(self, claimed: Claimed, verdict: str = "finished", **more: object) -> bool:
        (written,) = self.ledger.settle(
            "w",
            [
                Settlement(
                    verdict=verdict,
                    queue=claimed.queue,
                    id=claimed.id,
                    execution=claimed.execution,
                    told=claimed.told,
                    **more,
                )
            ],
        )
        return written

    def account(self, queue: str = "f") -> Account:
        return next(one for one in audit(self.client) if one.queue == queue)

    def accounts(self) -> list[Account]:
        return audit(self.client)

    def check(self) -> None:
        """Fail unless the books balance and every invocation is where its status says."""
        accounts = audit(self.client)
        assert [one for one in accounts if one.missing] == []
        assert list(misplaced(self.client, [one.queue for one in accounts])) == []
