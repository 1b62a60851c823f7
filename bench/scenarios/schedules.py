"""Schedules: how late they fire, and how many never do. About 1,000 fall due each second, evenly, for both.

Ours: 10,000 schedules of about ten seconds each (in a hurry 1,000 of about one); the drift is that of the function's
first instruction. APScheduler: 1,000 jobs of one second in its own process; the drift is that of the call.
"""

from __future__ import annotations

import json
import math
import subprocess
import time
from functools import partial
from pathlib import Path

from bench import project, records
from bench.case import Case, Outcome, Room
from bench.contenders import OURS
from bench.figures import Figure, percentile
from bench.whole import Whole

NAME = "schedules"
TITLE = "Schedules: drift from the due time, about 1,000 due a second"
APPS = Path(__file__).resolve().parents[1] / "apps"
APSCHEDULER = "APScheduler"
A_SECOND = 1_000
"""How many fall due each second."""


def cases(room: Room) -> list[Case]:
    """Return both; in a hurry ours alone."""
    count, seconds = room.scale(10_000, 1_000), room.scale(30, 2)
    ours = Case(scenario=NAME, who=f"{OURS}, {count:,} registered", measure=partial(_ours, count, seconds))
    peer = f"{APSCHEDULER}, {A_SECOND:,} registered"
    theirs = Case(scenario=NAME, who=peer, measure=partial(_apscheduler, room, A_SECOND, seconds))
    return [ours] if room.quick else [ours, theirs]


def interval(number: int, count: int) -> float:
    """Return a schedule's interval: all different, so that their multiples are spread over every second."""
    return round(count / A_SECOND * (1 + 0.1 * number / count), 4)


def due_within(every: float, first: float, last: float) -> int:
    """Return how many multiples of an interval lie in [first, last)."""
    return math.ceil(round(last / every, 6)) - math.ceil(round(first / every, 6))


def _ours(count: int, seconds: int) -> Outcome:
    lines = []
    for number in range(count):
        lines.append(f'[sources.s{number}]\nkind = "schedule"\nevery = {interval(number, count)}\n')
        lines.append(project.trigger(f"s{number}", "tick"))
    with Whole(functions={"tick": ""}, rest="".join(lines)) as whole:
        whole.start()
        whole.until_ran(count, within=60 + count / 50)
        whole.until(lambda: _begun(whole) == count, within=60, what="every schedule has fired once")
        first = time.time()
        time.sleep(seconds)
        last = time.time()
        expected = sum(due_within(interval(number, count), first, last) for number in range(count))
        end = time.monotonic() + 3
        while len(found := _between(whole, first, last)) < expected and time.monotonic() < end:
            time.sleep(0.1)
    late = [(one.at - one.sent) / 1e6 for one in found]
    ran = len({(one.number, one.sent) for one in found})
    return _figures(f"{OURS}, {count:,} registered", late, expected, ran)


def _between(whole: Whole, first: float, last: float) -> list[records.Record]:
    return [one for one in records.read(whole.log) if first <= one.sent / 1e9 < last]


def _begun(whole: Whole) -> int:
    time.sleep(0.2)
    return len({one.number for one in records.read(whole.log)})


def _apscheduler(room: Room, jobs: int, seconds: int) -> Outcome:
    place = room.venvs.bin("apscheduler", ("apscheduler>=3.11,<4",))
    command = [str(place / "python"), "apscheduler_app.py", str(jobs), str(seconds)]
    done = subprocess.run(command, cwd=APPS, capture_output=True, text=True, timeout=seconds + 60, check=True)
    answer = json.loads(done.stdout)
    return _figures(f"{APSCHEDULER}, {jobs:,} registered", answer["late"], answer["expected"], len(answer["late"]))


def _figures(who: str, late: list[float], expected: int, ran: int) -> Outcome:
    values = [
        ("drift p50", percentile(late, 0.5), "ms"),
        ("drift p99", percentile(late, 0.99), "ms"),
        ("worst", max(late), "ms"),
        ("fell due", expected, ""),
        ("missed", max(0, expected - ran) / expected * 100, "%"),
    ]
    return [Figure(scenario=NAME, who=who, what=what, value=value, unit=unit) for what, value, unit in values]
