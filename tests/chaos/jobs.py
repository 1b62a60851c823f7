"""Jobs: a queue of numbers, and a function that writes down which of them it began and ended."""

from __future__ import annotations

from pathlib import Path

CONFIG = """
[sources.jobs]
kind = "queue"

[functions.work]
handler = "work.py:handler"

[[triggers]]
source = "jobs"
function = "work"
"""

# One write of a few bytes to a file that is open for appending is whole or not there, whoever is killed.
WORK = """
import os, time

flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
started, ended = os.open("started", flags), os.open("ended", flags)

def handler(event, context):
    line = b"%d\\n" % event["data"]
    os.write(started, line)
    time.sleep(0.005)
    os.write(ended, line)
"""


def numbers(path: Path) -> list[int]:
    """Return the jobs' numbers in the order in which they were written; the last line may be being written."""
    return [int(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
