"""Latency: from the call that enqueues to the first instruction of the task, at 50 tasks a second."""

from __future__ import annotations

from functools import partial

from bench import records
from bench.case import Case, Outcome, Room
from bench.contenders import BROKER, BROKER_SHIPPED, PEERS, Contender
from bench.figures import Figure, percentile
from bench.run import Run

NAME = "latency"
TITLE = "Latency at 50 tasks a second: enqueue call to first instruction"
GAP = 0.02


def cases(room: Room) -> list[Case]:
    """Return a case for each contender; in a hurry for broker alone."""
    everyone = (BROKER,) if room.quick else (BROKER, BROKER_SHIPPED, *PEERS)
    return [Case(scenario=NAME, who=one.name, measure=partial(latency, room, one)) for one in everyone]


def latency(room: Room, contender: Contender) -> Outcome:
    """Measure one contender once."""
    count = room.scale(500, 60)
    with Run(contender, room.venvs) as run:
        run.start()
        run.produce("pace", contender.function, count, GAP)
        run.must_wait(count + 20, 30)
        found = [(one.at - one.sent) / 1e6 for one in records.read(run.log) if one.sent]
    values = [("p50", percentile(found, 0.5)), ("p99", percentile(found, 0.99)), ("worst", max(found))]
    return [Figure(scenario=NAME, who=contender.name, what=what, value=value, unit="ms") for what, value in values]
