"""`broker logs --follow` shows a line less than 100 ms after the function has printed it."""

from __future__ import annotations

import re
import statistics
import subprocess
import threading
import time

import pytest

from tests.acceptance.running import COMMAND, Broker
from tests.conftest import until

CONFIG = """
[broker]
workers = 1

[sources.jobs]
kind = "queue"

[functions.tell]
handler = "tell.py:handler"

[[triggers]]
source = "jobs"
function = "tell"
"""

# The function goes on for a while, so what is measured is the line on its way, not the end of the attempt.
TELL = """
import time

def handler(event, context):
    print(f"printed at {time.time():.6f}", flush=True)
    time.sleep(0.25)
"""

MEASURED = 20
STALL = 0.03
"""Seconds: a program that only ever sleeps was woken this much too late, so the machine had no time for anybody."""


class Stalls:
    """Notices, in a thread, when this machine lets programs wait for a processor."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def between(self, start: float, end: float) -> bool:
        """Return whether there was one between two times."""
        return any(begin < end and until > start for begin, until in list(self._late))

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        before = time.time()
        while not self._stopping.wait(0.005):
            now = time.time()
            if now - before > 0.005 + STALL:
                self._late.append((before, now))
            before = now


@pytest.fixture
def broker(tmp_path):
    broker = Broker(tmp_path)
    broker.configure(CONFIG, tell=TELL)
    yield broker
    broker.close()


def test_a_line_is_seen_less_than_100_ms_after_it_was_printed(broker):
    broker.start()
    follower = subprocess.Popen(
        [COMMAND, "logs", "--follow", "tell"],
        cwd=broker.root,
        env={**broker.environ, "PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        text=True,
    )
    arrivals: list[tuple[float, float]] = []
    reader = threading.Thread(target=_read, args=[follower, arrivals], daemon=True)
    reader.start()
    stalls = Stalls()
    try:
        broker.push("jobs", ["warm-up"])
        until(lambda: arrivals, within=15, what="the first line is followed")
        for number in range(MEASURED):
            time.sleep(0.05 + 0.01 * (number % 7))  # so that no beat of the worker's or the follower's is in step
            broker.push("jobs", [number])
            until(lambda: len(arrivals) >= number + 2, within=15)  # noqa: B023 -- called at once
    finally:
        stalls.close()
        follower.terminate()
        reader.join(10)
        follower.wait(10)
        follower.stdout.close()
    undisturbed = [seen - printed for printed, seen in arrivals[1:] if not stalls.between(printed, seen)]
    milliseconds = sorted(1000 * delay for delay in undisturbed)
    print("milliseconds:", *(round(one, 1) for one in milliseconds))  # `pytest -rP` shows it
    assert len(milliseconds) >= MEASURED // 2, "the machine stalls too often to measure anything"
    assert statistics.median(milliseconds) < 100
    assert milliseconds[-1] < 100, milliseconds


def _read(follower: subprocess.Popen[str], arrivals: list[tuple[float, float]]) -> None:
    for line in follower.stdout:
        now = time.time()
        if found := re.search(r"printed at ([0-9.]+)", line):
            arrivals.append((float(found[1]), now))
