"""Measure environments of each runtime: cold start, round trip, pipelined rate, memory. Takes about a minute.

Run it as `python -m bench.environment [RUNTIME ...]`. What this machine has no program for is left out and named.
"""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from broker import runtimes
from broker.function import Function
from broker.quantity import Duration
from broker.runtime.environment import Environment
from broker.runtime.inside import limits
from broker.runtime.messages import Died, Done, Message, Ready
from broker.runtime.nursery import Nursery

BOOTSTRAP = f"""\
#!{sys.executable} -SE
import http.client, os
connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
place = "/2018-06-01/runtime/invocation/"
while True:
    connection.request("GET", place + "next")
    response = connection.getresponse()
    response.read()
    connection.request("POST", place + response.headers["Lambda-Runtime-Aws-Request-Id"] + "/response", "null")
    connection.getresponse().read()
"""
FILES = {
    "noop.py": "def handler(event, context):\n    return None\n",
    "noop.mjs": "export const handler = async () => null;\n",
    "noop.cjs": "exports.handler = (event, context, callback) => callback(null, null);\n",
    "Noop.java": "public class Noop { public static Object handle(Object event) { return null; } }\n",
    "bootstrap": BOOTSTRAP,
}
HANDLERS: dict[str, tuple[Any, str]] = {
    "python": ("python", "noop.py:handler"),
    "nodejs": ("nodejs", "noop.mjs:handler"),
    "nodejs, callback": ("nodejs", "noop.cjs:handler"),
    "java": ("java", "classes:Noop::handle"),
    "java, source file": ("java", "Noop.java:Noop::handle"),
    "provided (Python)": ("provided", "./bootstrap"),
    "exec (true)": ("exec", "true"),
}
EVENT = b'{"specversion":"1.0","id":"1","source":"bench","type":"tick","data":{"n":1}}'
AHEAD = 256
SECONDS = 2.0
SAMPLES = 20
ROUNDS = 2000


def main(wanted: list[str]) -> None:
    """Print one line a runtime."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in FILES.items():
            (root / name).write_text(text)
        (root / "bootstrap").chmod(0o755)
        nursery = Nursery(root)
        try:
            print(f"{'':<20}{'cold start':>12}{'round trip':>12}{'one of many':>13}{'each':>12}{'memory':>10}")
            for name, (runtime, handler) in HANDLERS.items():
                if wanted and runtime not in wanted:
                    continue
                if missing := runtimes.find(runtime).missing(handler, root, os.environ.get("PATH", "")):
                    print(f"{name:<20}{missing}")
                    continue
                if handler.startswith("classes:"):
                    subprocess.run(["javac", "-d", root / "classes", root / "Noop.java"], check=True)
                function = Function(name="noop", handler=handler, runtime=runtime, init_timeout=Duration(60))
                print(f"{name:<20}{measured(nursery, function)}", flush=True)
            print(f"{'nursery':<20}{megabytes([nursery.pid]):>59}")
        finally:
            nursery.close()


def measured(nursery: Nursery, function: Function) -> str:
    """Return the figures of one function: medians, and of many sent ahead the rate and the time of each."""
    first = warm(nursery, function)
    cold = cold_start(nursery, function) * 1000
    trip = round_trip(first) * 1e6
    rate = pipelined(first)
    memory = megabytes([first.pid or 0, *limits.descendants(first.pid or 0)])
    return f"{cold:>9.1f} ms{trip:>9.0f} us{rate:>11.0f}/s{1e6 / rate:>9.0f} us{memory}"


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
    """Return the seconds from the request to Ready; the environments end again, but not all at once."""
    took = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        environment = warm(nursery, function)
        took.append(time.perf_counter() - start)
        environment.stop()
        while not environment.dead:
            select.select([nursery], [], [], 0.05)
            nursery.read()
            environment.read()
            environment.tick(time.monotonic())
    return statistics.median(took)


def round_trip(environment: Environment) -> float:
    """Return the seconds from sending one event to its Done."""
    took: list[float] = []
    end = time.perf_counter() + 2 * SECONDS
    while len(took) < ROUNDS and time.perf_counter() < end:
        start = time.perf_counter()
        environment.send(f"{len(took):032x}", 1, EVENT)
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
        environment.flush()
        wait(environment)
    return done / spent


def megabytes(pids: list[int]) -> str:
    """Return proportional memory: shared pages count for each sharer in part (proc(5))."""
    kilobytes = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return f"{kilobytes / 1024:>7.1f} MB"


if __name__ == "__main__":
    main(sys.argv[1:])
