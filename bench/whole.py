"""Whole: a project that `broker` runs as its users do, with whatever sources a scenario asks for."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench import project, records
from bench.processes import Crew, command_line
from bench.run import MEMORY
from bench.server import TcpServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.processes import Process


class Whole:
    """A context in which a project is ready to run; `start` starts `broker up`, or the parts that it is given."""

    def __init__(
        self, *, functions: dict[str, str], queues: bool = False, rest: str = "", shipped: bool = True
    ) -> None:
        """Take what bench/project.py takes; not `shipped` is the server without persistence, over TCP."""
        self._queues = queues
        self._functions = functions
        self._rest = rest
        self._shipped = shipped

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.log = Path(tempfile.mkdtemp(prefix="bench-", dir=MEMORY)) / "records"
            stack.callback(shutil.rmtree, self.log.parent, ignore_errors=True)
            self.server = None if self._shipped else stack.enter_context(TcpServer())
            self.config = project.write(
                self.folder,
                log=self.log,
                redis=self.server.url if self.server else None,
                functions=self._functions,
                queues=self._queues,
                rest=self._rest.format(folder=self.folder),
            )
            self.crew = stack.enter_context(Crew(self.folder / "said"))
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def start(self, *parts: str) -> None:
        """Start `broker up`, or these commands instead."""
        for part in parts or ("up",):
            self.crew.start([sys.executable, "-m", "broker", "--config", str(self.config), part], folder=self.folder)

    def until(self, ready: Callable[[], bool], *, within: float, what: str) -> None:
        """Wait for a condition. Raises RuntimeError, with what was printed, when it does not come true."""
        end = time.monotonic() + within
        while not ready():
            if time.monotonic() > end or not self.crew.alive():
                raise RuntimeError(f"not within {within:.0f} s: {what}; {self.crew.said()}")
            time.sleep(0.01)

    def until_ran(self, count: int, *, within: float) -> None:
        """Wait for so many records."""
        self.until(lambda: records.count(self.log) >= count, within=within, what=f"{count} records")

    def parts(self) -> dict[str, list[Process]]:
        """Return the processes by what they are: supervisor, server, host, worker, nursery, environment."""
        found: dict[str, list[Process]] = {}
        members = self.crew.members()
        kinds: dict[int, str] = {}
        for one in sorted(members, key=lambda process: process.pid):
            words = command_line(one.pid)
            kind = {"worker": "nursery", "nursery": "environment"}.get(kinds.get(one.parent, ""), "other")
            if words and "server" in words[0]:
                kind = "server"
            elif kinds.get(one.parent) is None and "up" in words:
                kind = "supervisor"
            elif kinds.get(one.parent) not in {"worker", "nursery"}:
                kind = next((part for part in ("host", "worker") if part in words), "other")
            kinds[one.pid] = kind
            found.setdefault(kind, []).append(one)
        return found
