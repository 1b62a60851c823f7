"""Logs: from the moment a function prints a line to the moment `broker logs --follow` has shown it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from threading import Thread

from bench.case import Case, Outcome, Room
from bench.contenders import OURS
from bench.figures import Figure, percentile
from bench.whole import Whole
from broker.config import load
from broker.event import new_event
from broker.ledger import Ledger
from broker.publisher import Publisher
from broker.store import connection

NAME = "logs"
TITLE = "Logs: printed to shown by `broker logs --follow`, 10 a second, `broker up` as it ships"
GAP = 0.1
WARM_UP, COUNT = 5, 100


def cases(room: Room) -> list[Case]:
    """Return the one case; none in a hurry."""
    return [] if room.quick else [Case(scenario=NAME, who=OURS, measure=logs)]


def logs() -> Outcome:
    """Measure once."""
    took: list[float] = []
    with Whole(functions={"tell": ""}, queues=True) as whole:
        whole.start()
        whole.until(lambda: "worker" in whole.parts(), within=30, what="the worker is there")
        config = load(whole.config)
        with connection.connect(config, wait=True) as client:
            publisher = Publisher(config, Ledger(client))
            command = [sys.executable, "-m", "broker", "--config", str(whole.config), "logs", "--follow", "tell"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
                Thread(target=_read, args=[follower, took], daemon=True).start()
                try:
                    for number in range(WARM_UP + COUNT):
                        publisher.publish([new_event(source="tell", type="bench")])
                        whole.until(lambda: len(took) > number, within=30, what="the line is shown")  # noqa: B023
                        time.sleep(GAP)
                finally:
                    follower.terminate()
    found = took[WARM_UP:]
    values = [("p50", percentile(found, 0.5)), ("p99", percentile(found, 0.99)), ("worst", max(found))]
    return [Figure(scenario=NAME, who=OURS, what=what, value=value, unit="ms") for what, value in values]


def _read(follower: subprocess.Popen[str], took: list[float]) -> None:
    """Note the milliseconds of each line that says when it was printed."""
    for line in follower.stdout or ():
        now = time.time_ns()
        if found := re.search(r"printed at (\d+)", line):
            took.append((now - int(found[1])) / 1e6)
