"""Rest: what `broker up` takes as it ships while nothing happens: memory of each process, processor time of all."""

from __future__ import annotations

import time
from functools import partial

from bench.case import Case, Outcome, Room
from bench.contenders import OURS
from bench.figures import Figure
from bench.processes import memory_of
from bench.server import free_port
from bench.whole import Whole

NAME = "rest"
TITLE = "At rest: `broker up` with one source of each kind and one warm environment"
SOURCES = """
[sources.inbox]
kind = "file"
path = "inbox"
[[triggers]]
source = "inbox"
function = "file"

[sources.hook]
kind = "http"
route = "POST /hook"
listen = "127.0.0.1:{port}"
[[triggers]]
source = "hook"
function = "request"

[sources.nightly]
kind = "schedule"
cron = "0 3 * * *"
[[triggers]]
source = "nightly"
function = "noop"
"""
PARTS = ("supervisor", "host", "worker", "nursery", "environment", "server")


def cases(room: Room) -> list[Case]:
    """Return the one case."""
    return [Case(scenario=NAME, who=OURS, measure=partial(rest, room))]


def rest(room: Room) -> Outcome:
    """Measure once."""
    seconds = room.scale(30, 6)
    with Whole(
        functions={"file": "", "request": "", "noop": ""}, rest=SOURCES.replace("{port}", str(free_port()))
    ) as whole:
        inbox = whole.folder / "inbox"
        inbox.mkdir()
        whole.start()
        (inbox / "0.txt").write_text("x")
        whole.until_ran(1, within=30)
        time.sleep(3)
        before, begun = whole.crew.cpu(), time.monotonic()
        time.sleep(seconds)
        busy = (whole.crew.cpu() - before) / (time.monotonic() - begun)
        parts = {name: [memory_of(one.pid) for one in found] for name, found in whole.parts().items()}
    figures: Outcome = [Figure(scenario=NAME, who="all", what="processor", value=busy * 100, unit="% of a core")]
    for name in sorted(parts, key=lambda part: PARTS.index(part) if part in PARTS else len(PARTS)):
        for what, value in (
            ("resident", sum(one.resident for one in parts[name])),
            ("shared pages in part", sum(one.shared_out for one in parts[name])),
        ):
            figures.append(Figure(scenario=NAME, who=name, what=what, value=value, unit="MB"))
    total = sum(one.shared_out for found in parts.values() for one in found)
    figures.append(Figure(scenario=NAME, who="all", what="shared pages in part", value=total, unit="MB"))
    return figures
