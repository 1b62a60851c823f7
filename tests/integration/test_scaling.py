"""Environments come with the work and go without it; all functions of a worker share its room."""

from __future__ import annotations

import os

import psutil

from broker.ledger import audit
from tests.conftest import until

SLEEPER = """
    import os, time
    held = bytearray(1)
    def handler(event, context):
        global held
        held = bytearray(event["data"].get("hold", 1))
        for i in range(0, len(held), 4096): held[i] = 1
        began = time.monotonic()
        time.sleep(event["data"].get("for", 0))
        return [os.getpid(), began, time.monotonic()]
"""
G = """
[functions.g]
handler = "f.py:handler"
[sources.p]
kind = "./quiet.py:Quiet"
[[triggers]]
source = "p"
function = "g"
"""


def environments(worker, name):
    """The processes of a function's environments, by the name that they show."""
    found = []
    for process in psutil.Process(worker.pid).children(recursive=True):
        try:
            if process.name() == name:
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def overlapping(results):
    """How many of the (pid, began, ended) ran at once at the most."""
    moments = sorted([(began, 1) for _, began, _ in results] + [(ended, -1) for _, _, ended in results])
    running = most = 0
    for _, step in moments:
        running += step
        most = max(most, running)
    return most


def test_min_environments_are_warm_before_there_is_work_and_stay(project):
    project.configure(SLEEPER, min=2, keep_warm="50ms", timeout="5s")
    worker = project.worker()
    until(lambda: len(environments(worker, "f")) == 2)
    (id,) = project.push({})
    project.ends(id)
    (report,) = [line for line in project.lines(id) if line.startswith("REPORT")]
    assert "Init Duration" not in report
    killed = environments(worker, "f")[0]
    os.kill(killed, 9)
    until(lambda: len(environments(worker, "f")) == 2 and killed not in environments(worker, "f"))


def test_a_function_whose_work_is_done_has_no_process(project):
    project.configure(SLEEPER, keep_warm="50ms")
    worker = project.worker()
    ids = project.push(*[{"for": 0.05}] * 6)
    for id in ids:
        project.ends(id)
    until(lambda: environments(worker, "f") == [])


def test_at_most_max_environments_are_started(project):
    project.configure(SLEEPER, max=2)
    project.worker()
    ids = project.push(*[{"for": 0.05}] * 12)
    results = [project.ends(id) and project.result(id) for id in ids]
    assert overlapping(results) == 2


def test_the_longer_work_waits_the_more_environments_it_gets(project):
    project.configure(SLEEPER, broker="environments = 9")
    project.worker()
    ids = project.push(*[{"for": 0.2}] * 40)
    assert overlapping([project.ends(id) and project.result(id) for id in ids]) > 4


def test_a_function_that_comes_new_gets_its_share_of_a_full_worker(project):
    project.configure(SLEEPER, G, broker="environments = 2")
    project.worker()
    many = project.push(*[{"for": 0.1}] * 60)
    until(lambda: len(project.client.zrange("rq:wip:f", 0, -1)) == 2)
    (late,) = project.push({"for": 0}, source="p")
    project.ends(late)
    (account,) = [one for one in audit(project.client) if one.queue == "f"]
    assert account.queued > 0, "it had to wait for all others"
    for id in many:
        project.ends(id, within=30)


def test_when_memory_is_short_the_environment_that_was_idle_longest_ends(project):
    project.configure(SLEEPER, G, broker='memory = "110MB"', memory="128MB")
    worker = project.worker()
    (first,) = project.push({"hold": 60 << 20})
    project.ends(first)
    (pid,) = environments(worker, "f")
    (second,) = project.push({"hold": 60 << 20}, source="p")
    project.ends(second)
    until(lambda: pid not in environments(worker, "f"))
    assert len(environments(worker, "g")) == 1
