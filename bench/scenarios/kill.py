"""Kill: SIGKILL of all workers in the middle of 2,000 tasks of 5 ms, and their restart at once.

Each task leaves a record when it starts and when it ends. Lost are those that never ended within the time that is
waited; the peers are configured as their documentation says for this case. All contenders wait at the same time, since
most of it is waiting.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from bench import records
from bench.case import Case, Outcome, Room
from bench.contenders import BROKER, CELERY, DRAMATIQ, HUEY, PEERS, RQ, SAQ, TASKIQ, Contender
from bench.figures import Absence, Figure
from bench.run import Run
from bench.venvs import Missing

NAME = "kill"
TITLE = "SIGKILL of all workers in the middle of 2,000 tasks of 5 ms, restarted at once"
TASKS = 2000

_PEERS = {one.app: one for one in PEERS}


def _peer(app: str, name: str, command: str, **variables: str) -> Contender:
    return replace(_PEERS[app], name=name, commands=(command,), variables=variables, function="nap")


CONTENDERS = (
    replace(BROKER, function="nap"),
    _peer(
        "rq_app",
        "RQ worker (fork), Retry(3), worker TTL 20 s",
        f"{RQ} --job-monitoring-interval 5 --maintenance-interval 5 --worker-ttl 20",
        BENCH_RETRY="1",
    ),
    _peer("celery_app", "Celery prefork 2, late acks, visibility 15 s", CELERY, BENCH_VISIBILITY="15"),
    _peer("saq_app", "SAQ, 2 workers, retries, sweep 5 s", SAQ, BENCH_RETRY="1"),
    _peer("huey_app", "Huey, 2 processes", HUEY),
    _peer("taskiq_app", "taskiq list, 2 workers", TASKIQ),
    _peer("dramatiq_app", "Dramatiq 2x4, heartbeat 15 s", DRAMATIQ, BENCH_HEARTBEAT="15000"),
)


def cases(room: Room) -> list[Case]:
    """Return one case with all contenders; in a hurry with ours alone."""
    contenders = CONTENDERS[:1] if room.quick else CONTENDERS
    tasks, patience = room.scale(TASKS, 400), room.scale(130, 20)
    return [Case(scenario=NAME, who="all", measure=partial(_everyone, room, contenders, tasks, patience))]


def _everyone(room: Room, contenders: tuple[Contender, ...], tasks: int, patience: int) -> Outcome:
    with ThreadPoolExecutor(len(contenders)) as threads:
        waiting = []
        for number, contender in enumerate(contenders):
            time.sleep(2 if number else 0)  # so that they do not all work at the same moment
            waiting.append(threads.submit(_kill, room, contender, tasks, patience))
        return [figure for one in waiting for figure in one.result()]


def _kill(room: Room, contender: Contender, tasks: int, patience: int) -> Outcome:
    try:
        with Run(contender, room.venvs) as run:
            return _measure(run, contender, tasks, patience)
    except Missing as missing:
        return [Absence(scenario=NAME, who=contender.name, why=str(missing))]
    except Exception as error:  # noqa: BLE001 -- the border of one contender: the others go on
        return [Absence(scenario=NAME, who=contender.name, why=f"failed: {error}")]


def _measure(run: Run, contender: Contender, tasks: int, patience: int) -> Outcome:
    run.produce("load", "nap", 1, tasks - 1)
    run.start()
    run.must_wait(tasks, 120)  # two records a task: the middle
    time.sleep(random.uniform(0, 0.025))  # not always just after a record
    run.crew.kill()
    in_flight = _unfinished(run)
    restarted = time.time_ns()
    run.start()
    ended = 0
    deadline = time.monotonic() + patience
    while ended < tasks and time.monotonic() < deadline:
        time.sleep(0.2)
        ended = len({one.number for one in records.read(run.log) if one.end})
    found = records.read(run.log)
    recovered = [(one.at - restarted) / 1e9 for one in found if one.end and one.number in in_flight]
    last = max((one.at for one in found if one.end), default=restarted)
    twice = sum(times > 1 for times in Counter(one.number for one in found if not one.end).values())
    values = [
        ("lost", tasks - ended, ""),
        ("had begun and not ended", len(in_flight), ""),
        ("started twice", twice, ""),
        ("all had run after", (last - restarted) / 1e9, "s"),
    ]
    if recovered:
        values.append(("these had run after", max(recovered), "s"))
    return [
        Figure(scenario=NAME, who=contender.name, what=what, value=value, unit=unit) for what, value, unit in values
    ]


def _unfinished(run: Run) -> set[int]:
    found = records.read(run.log)
    return {one.number for one in found if not one.end} - {one.number for one in found if one.end}
