"""Floor: what the steps of an invocation cost by themselves, so that the whole can be held against their sum."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import project
from bench.case import Case, Outcome, Room
from bench.figures import Figure
from bench.server import TcpServer
from broker.config import load
from broker.event import Event
from broker.ledger import Ledger, Settlement, Want
from broker.publisher import Publisher
from broker.store import connection

NAME = "floor"
TITLE = "Floor: what the steps of one invocation cost by themselves"


def cases(room: Room) -> list[Case]:
    """Return a case for each step."""
    count = room.scale(20_000, 4_000)
    measures: dict[str, Callable[[], float]] = {
        "round trip to Redis (redis-py, PING)": partial(_ping, count // 4),
        "round trip through a socket pair to another process": partial(_socket_pair, count),
        "fork and wait": partial(_fork, count // 40),
        "start of a Python interpreter": partial(_interpreter, room.scale(20, 5)),
    }
    simple = [Case(scenario=NAME, who=who, measure=partial(_one, who, measure)) for who, measure in measures.items()]
    groups = [
        Case(scenario=NAME, who=_ledger_name(group), measure=partial(_ledger, group, min(count, group * 400)))
        for group in (1, 16, 256)
    ]
    return [*simple, *groups]


def _one(who: str, measure: Callable[[], float]) -> Outcome:
    return [Figure(scenario=NAME, who=who, what="time", value=measure() * 1e6, unit="us")]


def _ledger_name(group: int) -> str:
    return f"claim and settle, {group} at a time"


def _ledger(group: int, count: int) -> Outcome:
    """Measure what the ledger alone takes for an invocation, and how much of it the server spends in the scripts."""
    with TcpServer() as server, TemporaryDirectory(prefix="bench-") as folder:
        path = project.write(Path(folder), log=Path(folder) / "records", redis=server.url, functions={"noop": ""})
        config = load(path)
        ledger = Ledger(connection.connect(config))
        Publisher(config, ledger).publish(
            [Event(id=str(number), source="noop", type="bench", time="2026-11-23T00:00:00Z") for number in range(count)]
        )
        wants = [Want(function="noop", queues=config.functions["noop"].queues, most=group)]
        begun, busy = time.perf_counter(), server.microseconds()
        done = 0
        while done < count:
            claimed = ledger.claim("bench.1", wants, done).claimed
            settled = [
                Settlement(
                    verdict="finished", queue=one.queue, id=one.id, execution=one.execution, billed_ms=1, megabytes=256
                )
                for one in claimed
            ]
            if not claimed or not all(ledger.settle("bench.1", settled, [])):
                raise RuntimeError("the ledger lost something")
            done += len(claimed)
        spent, busy = time.perf_counter() - begun, server.microseconds() - busy
        ledger.client.close()
    values = [("time", spent / count * 1e6), ("of it in the server's scripts", busy / count)]
    return [Figure(scenario=NAME, who=_ledger_name(group), what=what, value=value, unit="us") for what, value in values]


def _ping(count: int) -> float:
    with TcpServer() as server:
        server.client.ping()
        begun = time.perf_counter()
        for _ in range(count):
            server.client.ping()
        return (time.perf_counter() - begun) / count


def _socket_pair(count: int) -> float:
    near, far = socket.socketpair()
    child = os.fork()
    if child == 0:
        near.close()
        while data := far.recv(4096):
            far.send(data)
        os._exit(0)
    far.close()
    begun = time.perf_counter()
    for _ in range(count):
        near.send(b"x" * 200)
        near.recv(4096)
    spent = time.perf_counter() - begun
    near.close()
    os.waitpid(child, 0)
    return spent / count


def _fork(count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
    return (time.perf_counter() - begun) / count


def _interpreter(count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        child = os.posix_spawn(sys.executable, [sys.executable, "-c", "pass"], os.environ)
        os.waitpid(child, 0)
    return (time.perf_counter() - begun) / count
