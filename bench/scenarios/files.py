"""Files: from the moment a file is closed to the first instruction of its function, in `broker up` as it ships."""

from __future__ import annotations

import time
from functools import partial

from bench import records
from bench.case import Case, Outcome, Room
from bench.contenders import OURS
from bench.figures import Figure, percentile
from bench.whole import Whole

NAME = "files"
TITLE = "Files: closed to first instruction, 20 a second, `broker up` as it ships"
GAP = 0.05
SOURCE = """
[sources.inbox]
kind = "file"
path = "inbox"
[[triggers]]
source = "inbox"
function = "file"
"""


def cases(room: Room) -> list[Case]:
    """Return the one case."""
    return [Case(scenario=NAME, who=OURS, measure=partial(files, room))]


def files(room: Room) -> Outcome:
    """Measure once."""
    count = room.scale(400, 25)
    with Whole(functions={"file": ""}, rest=SOURCE) as whole:
        inbox = whole.folder / "inbox"
        inbox.mkdir()
        whole.start()
        closed = []
        for number in range(count + 10):
            path = inbox / f"{number}.txt"
            with path.open("w") as file:
                file.write("x" * 100)
            closed.append(time.time_ns())
            if number < 10:  # until everything is warm
                whole.until_ran(number + 1, within=30)
            time.sleep(GAP)
        whole.until_ran(count + 10, within=30)
        found = [(one.at - closed[one.number]) / 1e6 for one in records.read(whole.log) if one.number >= 10]
    values = [("p50", percentile(found, 0.5)), ("p99", percentile(found, 0.99)), ("worst", max(found))]
    return [Figure(scenario=NAME, who=OURS, what=what, value=value, unit="ms") for what, value in values]
