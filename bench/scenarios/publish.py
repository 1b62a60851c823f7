"""Publish: how many events a second one process puts into Redis, and what it costs to find their functions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import project
from bench.case import Case, Outcome, Room
from bench.figures import Figure
from bench.server import TcpServer
from broker.config import load
from broker.event import Event
from broker.ledger import Ledger
from broker.publisher import GroupCommit, Publisher
from broker.routing import Routes
from broker.store import connection
from broker.trigger import Trigger

NAME = "publish"
TITLE = "Publish: events that one process puts into Redis"
TIME = "2026-11-23T00:00:00.000000Z"
TOGETHER = 64
"""Threads or tasks that publish one event after another and wait for each."""


def cases(room: Room) -> list[Case]:
    """Return one case for each way to publish."""
    ways: dict[str, Callable[[Publisher, list[Event]], None]] = {
        "one call, groups of 500": _together,
        "one after another, waiting for each": _alone,
        f"{TOGETHER} threads, group commit": _threads,
        f"{TOGETHER} asyncio tasks, group commit": _tasks,
    }
    counts: dict[Callable[[Publisher, list[Event]], None], int] = {
        _together: room.scale(100_000, 20_000),
        _alone: room.scale(5_000, 1_000),
    }
    publishing = [
        Case(scenario=NAME, who=name, measure=partial(_publish, name, way, counts.get(way, room.scale(40_000, 8_000))))
        for name, way in ways.items()
    ]
    matching = [
        Case(
            scenario=NAME,
            who=f"matching, {count:,} triggers",
            measure=partial(_match, count, room.scale(50_000, 10_000)),
        )
        for count in (10, 10_000)
    ]
    return [*publishing, *matching]


def _publish(name: str, way: Callable[[Publisher, list[Event]], None], count: int) -> Outcome:
    with TcpServer() as server, TemporaryDirectory(prefix="bench-") as folder:
        path = project.write(Path(folder), log=Path(folder) / "records", redis=server.url, functions={"noop": ""})
        config = load(path)
        client = connection.connect(config)
        publisher = Publisher(config, Ledger(client))
        publisher.publish([_event(-1)])
        events = [_event(number) for number in range(count)]
        before = time.perf_counter()
        way(publisher, events)
        spent = time.perf_counter() - before
        waiting = client.llen("rq:queue:noop")
        client.close()
    if waiting != count + 1:
        raise RuntimeError(f"{waiting} of {count + 1} events wait")
    return [Figure(scenario=NAME, who=name, what="published", value=count / spent, unit="events/s")]


def _event(number: int) -> Event:
    return Event(id=str(number), source="noop", type="bench", time=TIME, data={"number": number, "sent": 0})


def _together(publisher: Publisher, events: list[Event]) -> None:
    publisher.publish(events)


def _alone(publisher: Publisher, events: list[Event]) -> None:
    for event in events:
        publisher.publish([event])


def _threads(publisher: Publisher, events: list[Event]) -> None:
    commit = GroupCommit(publisher)

    def some(first: int) -> None:
        for event in events[first::TOGETHER]:
            commit.submit(event.id, publisher.orders(event)).result()

    with ThreadPoolExecutor(TOGETHER) as threads:
        for _ in threads.map(some, range(TOGETHER)):
            pass
    commit.close()


def _tasks(publisher: Publisher, events: list[Event]) -> None:
    commit = GroupCommit(publisher)

    async def some(first: int) -> None:
        for event in events[first::TOGETHER]:
            await asyncio.wrap_future(commit.submit(event.id, publisher.orders(event)))

    async def everything() -> None:
        await asyncio.gather(*(some(first) for first in range(TOGETHER)))

    asyncio.run(everything())
    commit.close()


def _match(triggers: int, count: int) -> Outcome:
    """Measure how long it takes to find the one trigger of so many that matches, by the value of one field."""
    routes = Routes(
        Trigger(source="orders", function=f"f{number}", pattern={"data": {"customer": [f"c{number}"]}})
        for number in range(triggers)
    )
    events = [
        Event(
            id=str(number), source="orders", type="bench", time=TIME, data={"customer": f"c{number % triggers}"}
        ).record()
        for number in range(count)
    ]
    before = time.perf_counter()
    found = sum(len(routes.match(event, "orders")) for event in events)
    spent = time.perf_counter() - before
    if found != count:
        raise RuntimeError(f"{found} of {count} events matched")
    who = f"matching, {triggers:,} triggers"
    return [Figure(scenario=NAME, who=who, what="matched", value=spent / count * 1e6, unit="us each")]
