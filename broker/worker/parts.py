"""Parts: what the parts of one worker share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis import Redis

    from broker.deployed.functions import Functions
    from broker.ledger import Ledger
    from broker.ledger.pipelined import Pipelined
    from broker.plain.jobs import PlainJobs
    from broker.runtime.pool import Pool
    from broker.worker.demand import Demand
    from broker.worker.outbox import Outbox
    from broker.worker.registration import Registration


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Those of one worker that others need."""

    name: str
    """The worker's."""
    client: Redis
    ledger: Ledger
    pipelined: Pipelined
    deployed: Functions
    demand: Demand
    pool: Pool
    outbox: Outbox
    plain: PlainJobs
    registration: Registration
