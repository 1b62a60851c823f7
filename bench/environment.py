"""Measure environments: cold start, round trip, pipelined rate, memory. Takes about five seconds.

Run it as `python -m bench.environment`.
"""

from __future__ import annotations

import select
import statistics
import tempfile
import time
from pathlib import Path

from broker.function import Function
from broker.runtime.environment import Environment
from broker.runtime.messages import Died, Done, Message, Ready
from broker.runtime.nursery import Nursery

HANDLER = "def handler(event, context):\n    return None\n"
EVENT = b'{"specversion":"1.0","id":"1","source":"bench","type":"tick","data":{"n":1}}'
AHEAD = 256
SECONDS = 2.0
SAMPLES = 20


def main() -> None:
    """Print one figure a line."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "noop.py").write_text(HANDLER)
        function = Function(name="noop", handler="noop.py:handler")
        start = time.perf_counter()
        nursery = Nursery(root)
        try:
            first = warm(nursery, function)
            print(f"first environment, nursery included  {(time.perf_counter() - start) * 1000:9.1f} ms")
            print(f"cold start, median of {SAMPLES}             {cold_start(nursery, function) * 1000:9.2f} ms")
            print(f"warm round trip, median              {round_trip(first) * 1e6:9.0f} us")
            print(f"no-op invocations, {AHEAD} sent ahead     {pipelined(first):9.0f} /s")
            print(f"nursery                              {memory(nursery.pid)}")
            print(f"one of {SAMPLES + 1} warm environments         {memory(first.pid or 0)}")
        finally:
            nursery.close()


def warm(nursery: Nursery, function: Function) -> Environment:
    """Return an environment that is ready."""
    environment = nursery.start(function)
    while not any(isinstance(message, Ready) for message in wait(environment)):
        nursery.read()
    nursery.read()
    return environment


def wait(environment: Environment) -> list[Message]:
    """Return the next messages."""
    select.select([environment.control], [], [])
    messages = environment.read()
    died = [message.error for message in messages if isinstance(message, Died)]
    if died:
        raise died[0]
    return messages


def cold_start(nursery: Nursery, function: Function) -> float:
    """Return the seconds from the request to Ready."""
    took = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        warm(nursery, function)
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def round_trip(environment: Environment) -> float:
    """Return the seconds from sending one event to its Done."""
    took = []
    for number in range(2000):
        start = time.perf_counter()
        environment.send(f"{number:032x}", 1, EVENT)
        environment.flush()
        while not any(isinstance(message, Done) for message in wait(environment)):
            pass
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def pipelined(environment: Environment) -> float:
    """Return invocations a second when the environment never has to wait for us."""
    sent = done = 0
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < SECONDS:
        while len(environment.pending) < AHEAD:
            environment.send(f"{sent:032x}", 1, EVENT)
            sent += 1
        environment.flush()
        done += sum(isinstance(message, Done) for message in wait(environment))
    while environment.pending:
        wait(environment)
    return done / spent


def memory(pid: int) -> str:
    """Return resident and proportional memory: shared pages count for each sharer in part (proc(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith("kB")}
    return f"{sizes['Pss']:9.1f} MB (resident {sizes['Rss']:.1f} MB)"


if __name__ == "__main__":
    main()
