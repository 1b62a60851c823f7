"""Kill -9 of everything: 2,000 jobs are pushed, every process of the broker is killed while they run, it starts again.

    python -m tests.chaos.kill9 --rounds 10

runs that many rounds, each with a random moment of its own, and prints a row of figures for each.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
import redis

from broker.store.embedded import Server
from tests.acceptance.running import Broker, books, leased
from tests.conftest import until

JOBS = 2_000

CONFIG = """
[sources.jobs]
kind = "queue"

[functions.work]
handler = "work.py:handler"

[[triggers]]
source = "jobs"
function = "work"
"""

# One write of a few bytes to a file that is open for appending is whole or not there, whoever is killed.
WORK = """
import os, time

flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
started, ended = os.open("started", flags), os.open("ended", flags)

def handler(event, context):
    line = b"%d\\n" % event["data"]
    os.write(started, line)
    time.sleep(0.005)
    os.write(ended, line)
"""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one round came to."""

    seed: int
    pushed_as: str
    ended_at_kill: int
    in_flight: int
    """How many invocations were leased when everything was killed."""
    started_twice: int
    ended_twice: int
    lost: int
    restart: float
    """Seconds from the start of the second `broker up` to the end of the last job."""


def run_round(root: Path, seed: int) -> Figures:
    """Run one round in an empty folder; fails when anything is lost, or run twice that was not in flight."""
    rng = random.Random(seed)
    broker = Broker(root)
    broker.configure(CONFIG, work=WORK)
    try:
        broker.start()
        pushed_as = _push(broker, rng)
        enough = rng.randrange(JOBS // 20, JOBS - JOBS // 20)
        until(lambda: len(numbers(root / "started")) >= enough, within=30, what="the jobs run")
        time.sleep(rng.random() * 0.02)  # anywhere within what the worker does in turn
        broker.kill_everything(rng)
        ended_at_kill = len(set(numbers(root / "ended")))
        in_flight = leases_on_disk(root)
        began = time.monotonic()
        broker.start()
        account = broker.all_ended("work", JOBS, within=30)
        restart = time.monotonic() - began
        assert (account.accepted, account.finished) == (JOBS, JOBS)
        assert broker.interrupt() == 0
        assert broker.processes() == []
    finally:
        broker.close()
    starts, ends = Counter(numbers(root / "started")), Counter(numbers(root / "ended"))
    twice = {number for number, count in starts.items() if count > 1}
    assert set(ends) == set(range(JOBS))
    assert max(starts.values()) <= 2
    assert twice <= in_flight, f"{len(twice - in_flight)} ran twice that were not in flight"
    return Figures(
        seed=seed,
        pushed_as=pushed_as,
        ended_at_kill=ended_at_kill,
        in_flight=len(in_flight),
        started_twice=len(twice),
        ended_twice=sum(count > 1 for count in ends.values()),
        lost=JOBS - len(ends),
        restart=restart,
    )


def _push(broker: Broker, rng: random.Random) -> str:
    """Push the jobs one of the two ways there are; when this returns, all of them are in Redis."""
    if rng.random() < 0.5:
        broker.push("jobs", range(JOBS))
        return "broker push"
    broker.client.rpush("broker:queue:jobs", *range(JOBS))
    return "RPUSH"


def numbers(path: Path) -> list[int]:
    """Return the jobs' numbers in the order in which they were written; the last line may be being written."""
    return [int(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def leases_on_disk(root: Path) -> set[int]:
    """Return the numbers of the jobs that were leased at the kill, as a copy of what Redis left on the disk says."""
    copy = root / "copy"
    shutil.copytree(root / ".broker/appendonlydir", copy / "appendonlydir")
    with Server(copy) as server, redis.Redis.from_url(server.url) as client:
        books(client)
        pipeline = client.pipeline(transaction=False)
        for id_ in leased(client, "work"):
            pipeline.hget(f"rq:job:{id_}", "data")
        return {_number(data) for data in pipeline.execute()}


def _number(data: bytes) -> int:
    _, _, (_, event), _ = msgspec.json.decode(data)
    number: int = event["data"]
    return number


def main() -> None:
    """Run rounds and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    arguments = parser.parse_args()
    print(f"{'seed':>4}  {'pushed as':<11}  ended at kill  in flight  started twice  ended twice  lost  restart")
    for seed in range(arguments.seed, arguments.seed + arguments.rounds):
        with tempfile.TemporaryDirectory(prefix="broker-kill9-") as folder:
            one = run_round(Path(folder), seed)
        print(
            f"{one.seed:>4}  {one.pushed_as:<11}  {one.ended_at_kill:>13}  {one.in_flight:>9}  {one.started_twice:>13}"
            f"  {one.ended_twice:>11}  {one.lost:>4}  {one.restart:>5.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
