"""State: what `broker status` shows: Redis, workers, functions, sources."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from broker import address, ledger
from broker.budget import Budgets
from broker.deployed.functions import Functions
from broker.identity import LEASED
from broker.ledger import available
from broker.ledger.jobs import function_of
from broker.store import connection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis import Redis

    from broker.config import Config
    from broker.function import Function

PLACES = ("queued", "scheduled", "deferred", "leased", "dead", "finished")
"""Where the invocations of a function may be; finished ones are counted, not kept."""


def read(config: Config, client: Redis) -> dict[str, Any]:
    """Return it as JSON would have it. Raises StoreUnavailable."""
    return {
        "redis": _redis(config, client),
        "suspended": bool(client.exists("rq:suspended")),
        "workers": _workers(client),
        "functions": _functions(Functions(config, client).now.by_name, client),
        "sources": _sources(config, client),
        "plain jobs": _plain(config, client),
        "budgets": _budgets(config, client),
    }


def _redis(config: Config, client: Redis) -> dict[str, Any]:
    with available():
        info: Any = client.info("memory")
        keys: Any = client.dbsize()
    url = config.settings.redis
    return {
        "where": address.public(url) if url else str(address.find(config.data)),
        "version": connection.describe(client),
        "memory": info["used_memory_human"],
        "memory_bytes": info["used_memory"],
        "keys": keys,
    }


def _workers(client: Redis) -> list[dict[str, Any]]:
    """Return our workers and RQ's; ours hold a lease, RQ's beat now and then."""
    pipeline = client.pipeline(transaction=False)
    pipeline.time()
    pipeline.zrange("broker:workers", 0, -1, withscores=True)
    pipeline.smembers("rq:workers")
    with available():
        (seconds, micros), leases, keys = pipeline.execute()
    now_ms = seconds * 1000 + micros / 1000
    left = {name.decode(): round((until_ms - now_ms) / 1000, 1) for name, until_ms in leases}
    names = sorted({*left, *(key.decode().removeprefix("rq:worker:") for key in keys)})
    for name in names:
        pipeline.hmget(f"rq:worker:{name}", "hostname", "pid", "state", "last_heartbeat", "birth", LEASED)
    with available():
        answers = pipeline.execute()
    workers = []
    for name, values in zip(names, answers, strict=True):
        host, pid, state, beat, birth, ours = ((value or b"").decode() for value in values)
        # RQ's registration of one that died lasts for minutes; its lease was taken away when others noticed.
        lost = not state or left.get(name, 0 if ours else 1) <= 0
        workers.append(
            {
                "name": name,
                "host": host,
                "pid": int(pid) if pid else None,
                "state": "lost" if lost else state,
                "lease": left.get(name),
                "last_heartbeat": beat or None,
                "since": birth or None,
            }
        )
    return workers


def _functions(functions: Mapping[str, Function], client: Redis) -> list[dict[str, Any]]:
    """Return the functions there are, then those of which something is left."""
    sums: dict[str, dict[str, int]] = {name: dict.fromkeys(PLACES, 0) for name in functions}
    with available():
        accounts = ledger.audit(client)
    for account in accounts:
        name = function_of(account.queue)
        if account.accepted or name in sums:  # else it is a queue of another program that uses RQ
            row = sums.setdefault(name, dict.fromkeys(PLACES, 0))
            for place in PLACES:
                row[place] += getattr(account, place)
    return [{"name": name, **row, "configured": name in functions} for name, row in sums.items()]


def _budgets(config: Config, client: Redis) -> list[dict[str, Any]]:
    return [
        {
            "name": account.name,
            "per": account.budget.per,
            "requests": account.used.requests,
            "requests_limit": account.budget.requests,
            "gb_seconds": round(account.used.gb_seconds, 6),
            "gb_seconds_limit": account.budget.gb_seconds,
            "state": account.state,
            "until": account.until.isoformat(),
        }
        for account in Budgets(config).accounts(client, datetime.now(UTC))
    ]


def _plain(config: Config, client: Redis) -> list[dict[str, Any]]:
    """Return the queues of plain jobs, with what is in RQ's registries of them."""
    pipeline = client.pipeline(transaction=False)
    for name in config.settings.rq.queues:
        pipeline.llen(f"rq:queue:{name}")
        for place in ("scheduled", "deferred", "wip", "failed"):
            pipeline.zcard(f"rq:{place}:{name}")
    with available():
        answers = iter(pipeline.execute())
    places = ("queued", "scheduled", "deferred", "started", "failed")
    return [{"name": name, **{place: next(answers) for place in places}} for name in config.settings.rq.queues]


def _sources(config: Config, client: Redis) -> list[dict[str, Any]]:
    """Return the sources, with their tracked events that have not ended and what waits in a queue's own keys."""
    pipeline = client.pipeline(transaction=False)
    for name in config.sources:
        pipeline.hlen(f"broker:open:{name}")
        pipeline.llen(f"broker:queue:{name}")
        pipeline.xlen(f"broker:stream:{name}")
        pipeline.llen(f"broker:queue:{name}:bad")
    with available():
        answers = iter(pipeline.execute())
    rows = []
    for name in config.sources:
        tracked, listed, streamed, bad = (next(answers) for _ in range(4))
        is_queue = config.kinds[name] == "queue"
        rows.append(
            {
                "name": name,
                "kind": config.kinds[name],
                "open": tracked,
                "waiting": listed + streamed if is_queue else None,
                "bad": bad if is_queue else None,
            }
        )
    return rows
