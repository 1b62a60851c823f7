"""What a long queue costs: bytes for each invocation that waits, and whether any operation takes longer for them.

Run it as `python -m bench.waiting`; it takes some minutes and, with a million, a gigabyte of memory. Each row is one
operation, timed on a server where few wait and on one where many wait, in turns, so that what the machine does
meanwhile hits both. Figures are milliseconds of a call, round trip included: the fastest of many, which others that use
the machine disturb the least.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from bench.server import TcpServer
from broker.event import invocation_id, new_event
from broker.flow import flow_of
from broker.function import Function
from broker.ledger import Ledger, Order, Settlement, Want, audit, reading
from broker.ledger.jobs import job_data

GROUP = 500
"""How many events are published in one call, as sources do."""

AT_ONCE = 100
"""How many invocations one call of an operation is about."""

CALLS = 60
WORKER = "host.1.a"
AS_SHIPPED = ("--hash-max-listpack-value", "4096")
"""What the embedded server is started with, as far as memory goes."""

SHAPES = {
    "waiting in one queue": Function(name="f", handler="f.py:handler"),
    "waiting for the turn of one key": Function(name="f", handler="f.py:handler", order_by="data.one"),
    "waiting for the turns of as many keys as half of them": Function(
        name="f", handler="f.py:handler", order_by="data.pair"
    ),
    "delayed by an hour": Function(name="f", handler="f.py:handler"),
}


@dataclass(kw_only=True)
class Bench:
    """A ledger in which invocations of one function wait."""

    client: redis.Redis
    function: Function
    delay: float = 0
    number: int = 0
    executions: int = 0
    took: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.client)
        self.ledger.recover(worker=WORKER, lease=3600)

    def orders(self, count: int, delay: float = 0) -> Iterator[list[Order]]:
        """Yield the next events, each with its one order."""
        for number in range(self.number, self.number + count):
            data = {"order": number, "customer": f"c{number % 1000}", "one": 1, "pair": number // 2}
            event = new_event(source="orders", type="queue.message", data=data)
            yield [
                Order(
                    queue=self.function.name,
                    id=invocation_id(self.function.name, event),
                    data=job_data(self.function.name, event.encode()),
                    description=self.function.name,
                    max_queue=1 << 40,
                    delay=delay,
                    flow=flow_of(self.function, event),
                )
            ]
        self.number += count

    def fill(self, count: int) -> float:
        """Let so many wait; return the bytes that each of them takes."""
        self.ledger.publish(list(self.orders(1)))
        before = self._memory()
        for start in range(0, count, GROUP):
            self.ledger.publish(list(self.orders(min(GROUP, count - start), self.delay)))
        return (self._memory() - before) / count

    def round(self) -> None:
        """Time each operation once."""
        new = list(self.orders(AT_ONCE))
        self._timed(f"publish {AT_ONCE}", lambda: self.ledger.publish(new))
        claimed = self._timed(f"claim up to {AT_ONCE}", self._claim).claimed
        settlements = [
            Settlement(
                verdict="finished", queue=one.queue, id=one.id, execution=one.execution, told=one.told, result=b"1"
            )
            for one in claimed
        ]
        self._timed("settle them", lambda: self.ledger.settle(WORKER, settlements))
        self._timed("recover, nobody died", lambda: self.ledger.recover(worker=WORKER, lease=3600))
        self._claim()
        self._timed(f"recover {AT_ONCE} of one that died", lambda: self.ledger.recover(dead=[WORKER]))
        self._timed("audit", lambda: audit(self.client))
        self._timed("runs", lambda: reading.recent(self.client, [self.function.name]))

    def _claim(self) -> Any:
        want = Want(function=self.function.name, queues=self.function.queues, most=AT_ONCE)
        answer = self.ledger.claim(WORKER, [want], self.executions)
        self.executions += len(answer.claimed)
        return answer

    def _timed(self, name: str, act: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        answer = act()
        self.took.setdefault(name, []).append(time.perf_counter() - begun)
        return answer

    def _memory(self) -> int:
        info: Any = self.client.info("memory")
        return int(info["used_memory"])


def main(arguments: list[str] | None = None) -> int:
    """Print a table for each way of waiting."""
    parser = argparse.ArgumentParser(prog="python -m bench.waiting", description=__doc__)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--only", choices=list(SHAPES), action="append")
    options = parser.parse_args(arguments)
    for shape in options.only or SHAPES:
        with TcpServer(*AS_SHIPPED) as one, TcpServer(*AS_SHIPPED) as other:
            delay = 3600 if shape.startswith("delayed") else 0
            few = Bench(client=one.client, function=SHAPES[shape], delay=delay)
            many = Bench(client=other.client, function=SHAPES[shape], delay=delay)
            sizes = few.fill(options.few), many.fill(options.many)
            for _ in range(CALLS):
                few.round()
                many.round()
        table = Table(title=shape)
        table.add_column("")
        for heading in (f"{options.few:,} wait", f"{options.many:,} wait", "ratio"):
            table.add_column(heading, justify="right")
        table.add_row("bytes each", *(f"{size:.0f}" for size in sizes), f"{sizes[1] / sizes[0]:.2f}")
        for name in few.took:
            table.add_row(name, *_row(few.took[name], many.took[name]))
        Console(width=100).print(table)
    return 0


def _row(few: list[float], many: list[float]) -> list[str]:
    best = [min(values) * 1000 for values in (few, many)]
    return [*(f"{one:.2f} ms" for one in best), f"{best[1] / best[0]:.2f}"]


if __name__ == "__main__":
    sys.exit(main())
