"""Records: what ran, known independently of Redis: a handler writes a line when it begins and when it ends."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HANDLERS = """
import os, signal, time

# One write of a few bytes to a file that is open for appending is whole or not there, whoever is killed.
flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
started, ended = os.open("started", flags), os.open("ended", flags)

def note(file, key, context):
    line = f"{key} {context.aws_request_id} {context.attempt} {time.monotonic_ns()}\\n"
    os.write(file, line.encode())

def key_of(event):
    data = event["data"]
    if event["type"] == "schedule.tick":
        return "t" + data["due"]
    if event["type"].startswith("file."):
        return data["name"]
    return (data["body"] if event["type"] == "http.request" else data)["key"]

def work(event, context):
    key = key_of(event)
    note(started, key, context)
    if key.startswith("kill-environment"):
        os.kill(os.getpid(), signal.SIGKILL)
    if key.startswith("kill-worker"):  # it is the parent of the nursery, which is ours
        with open(f"/proc/{os.getppid()}/stat") as stat:
            os.kill(int(stat.read().rpartition(")")[2].split()[1]), signal.SIGKILL)
        time.sleep(60)
    time.sleep(0.002 + hash(key) % 16 / 1000)
    note(ended, key, context)
    return key

def landed(event, context):
    key = "=" + event["data"]["result"]
    note(started, key, context)
    note(ended, key, context)
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One line: which invocation, of what, and when by the clock that nobody can set."""

    key: str
    """What a producer calls the event; that of an invocation of `landed` is `=` and the key of what it followed."""
    invocation: str
    attempt: int
    at: float


@dataclass
class Records:
    """The lines of one project, read on from where the last read ended."""

    root: Path
    starts: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    """invocation -> its runs, in order."""
    ended: set[str] = field(default_factory=set)
    """Keys of which a run came to its end."""
    invocations: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """key -> the invocations that there were of it."""
    _read: dict[str, int] = field(default_factory=dict)

    def read(self) -> None:
        """Take in what was written since the last time."""
        for run in self._lines("started"):
            self.starts[run.invocation].append(run)
            self.invocations[run.key].add(run.invocation)
        for run in self._lines("ended"):
            self.ended.add(run.key)

    def _lines(self, name: str) -> list[Run]:
        path = self.root / name
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._read.get(name, 0))
            whole, _, _ = file.read().rpartition(b"\n")
        if not whole:
            return []
        self._read[name] = self._read.get(name, 0) + len(whole) + 1
        rows = (line.decode().split(" ") for line in whole.split(b"\n"))
        return [Run(key=key, invocation=id, attempt=int(attempt), at=int(at) / 1e9) for key, id, attempt, at in rows]
