"""Process: what runs plain jobs for one worker: a plain worker, from its orders to its end."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress

import msgspec
import redis

from broker import leash
from broker.plain.worker import DONE, PlainWorker
from broker.runtime.inside import kernel
from broker.store import connection

__all__ = ["BYE", "DONE", "Orders", "main"]

log = logging.getLogger("broker.plain")

BYE = "bye"
"""Told at the end."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is to do. It comes on standard input, because the URL may hold a password."""

    redis: str
    """The URL."""
    name: str
    """The name of the worker for which it runs."""
    parent: int
    """The process of that worker."""
    queues: list[str]
    serializer: str
    root: str
    """The folder in which jobs run, and from which they are imported."""
    report: int
    """The descriptor on which RQ's states, DONE and BYE are told, each in a line."""
    burst: bool = False
    max_jobs: int | None = None


def main() -> int:
    """Run plain jobs until a signal ends it, in a burst until there are none; the exit status."""
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    leash.die_with_parent(orders.parent, signal.SIGTERM)  # after the job that runs: nobody else can end it well
    leash.follow_parent()
    kernel.keep_secrets()  # the URL, above all from the functions, which may be the same user's
    os.set_inheritable(orders.report, False)
    os.chdir(orders.root)
    sys.path.insert(0, orders.root)
    worker = PlainWorker(
        orders.queues,
        name=orders.name,
        client=connection.open_url(orders.redis),
        serializer=orders.serializer,
        report=lambda word: _tell(orders.report, word),
    )
    try:
        worker.abandon()  # of one that ran under this name before, and was killed
        worker.work(burst=orders.burst, logging_level="WARNING", max_jobs=orders.max_jobs)
    except SystemExit:
        log.warning("what ran was ended")
    finally:
        with suppress(redis.RedisError, OSError):  # leases and locks end by themselves
            worker.close()
        _tell(orders.report, BYE)
    return 0


def _tell(descriptor: int, word: str) -> None:
    with suppress(OSError):  # nobody listens any more: the worker has died, and this is the end of what it began
        os.write(descriptor, f"{word}\n".encode())
