"""Rest: what `broker up` takes as it ships while nothing happens: memory of each process, processor time of all."""

from __future__ import annotations

import time
from functools import partial

from bench.case import Case, Outcome, Room
from bench.contenders import OURS
from bench.figures import Figure
from bench.processes import memory_of, nanoseconds
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

[sources.jobs]
kind = "queue"
[[triggers]]
source = "jobs"
function = "noop"

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
    return [Case(scenario=NAME, who=OURS, measure=partial(at_rest, room))]


def at_rest(room: Room) -> Outcome:
    """Measure once."""
    seconds = room.scale(30, 3)
    rest = SOURCES.replace("{port}", str(free_port()))
    with Whole(functions={"file": "", "request": "", "noop": ""}, rest=rest) as whole:
        inbox = whole.folder / "inbox"
        inbox.mkdir()
        whole.start()
        (inbox / "0.txt").write_text("x")
        whole.until_ran(1, within=30)
        time.sleep(room.scale(2, 1))
        before, begun = _cpu(whole), time.monotonic()
        time.sleep(seconds)
        after, spent = _cpu(whole), time.monotonic() - begun
        parts = {name: [memory_of(one.pid) for one in found] for name, found in whole.parts().items()}
    rows = {"all together": [one for found in parts.values() for one in found]}
    rows |= {name: parts[name] for name in sorted(parts, key=lambda part: (*PARTS, part).index(part))}
    figures: Outcome = []
    for name, found in rows.items():
        busy = sum(after[part] - before.get(part, 0) for part in after if name in {part, "all together"})
        values = [
            ("processor", busy / spent * 100, "% of a core"),
            ("resident", sum(one.resident for one in found), "MB"),
            ("shared pages counted in part", sum(one.shared_out for one in found), "MB"),
        ]
        figures += [Figure(scenario=NAME, who=name, what=what, value=value, unit=unit) for what, value, unit in values]
    return figures


def _cpu(whole: Whole) -> dict[str, float]:
    return {name: sum(nanoseconds(one.pid) for one in found) / 1e9 for name, found in whole.parts().items()}
