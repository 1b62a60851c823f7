"""Drain: how fast everything that waits is run, and how fast it was put there before.

Each contender's producer enqueues; then its workers start. The rate is that of the records, from the first to the
last, so neither the start nor the producer is in it.
"""

from __future__ import annotations

from functools import partial

from bench import records
from bench.case import Case, Outcome, Room
from bench.contenders import BROKER, BROKER_2, BROKER_BATCH, BROKER_BATCH_2, BROKER_SHIPPED, PEERS, Contender
from bench.figures import Figure
from bench.run import Run

NAME = "drain"
TITLE = "Drain: no-op tasks that wait, run to the last"


def cases(room: Room) -> list[Case]:
    """Return a case for each contender."""
    everyone = (BROKER, BROKER_2, BROKER_BATCH, BROKER_BATCH_2, BROKER_SHIPPED, *PEERS)
    return [Case(scenario=NAME, who=one.name, measure=partial(drain, room, one)) for one in everyone]


def drain(room: Room, contender: Contender) -> Outcome:
    """Measure one contender once."""
    count = room.scale(contender.count, max(100, min(15_000, contender.count // (5 if contender.ours else 12))))
    single = min(2000, count // 2)
    with Run(contender, room.venvs) as run:
        produced = run.produce("load", contender.function, single, count - single)
        run.start()
        run.must_wait(1, 30)
        cpu, before = run.crew.cpu(), records.count(run.log)
        run.must_wait(count, 120)
        cpu, after = run.crew.cpu() - cpu, records.count(run.log)
        memory = run.crew.memory()
        found = records.read(run.log)
    values = [
        ("drained", records.rate(found), "/s"),
        ("enqueued one by one", produced["single"], "/s"),
        ("enqueued in bulk", produced["many"], "/s"),
        ("workers' processor time", cpu / max(1, after - before) * 1e6, "us each"),
        ("workers' memory", memory, "MB"),
    ]
    return [
        Figure(scenario=NAME, who=contender.name, what=what, value=value, unit=unit) for what, value, unit in values
    ]
