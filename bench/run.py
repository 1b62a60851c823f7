"""Run: one contender on one server for one measurement: its folder, its processes, its producer, its records."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench import project, records
from bench.processes import Crew
from bench.server import TcpServer
from broker.store.embedded import Server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.contenders import Contender
    from bench.venvs import Venvs

APPS = Path(__file__).resolve().parent / "apps"
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""Where records go: a file system in memory where there is one, so that no disk is measured."""


class Run:
    """A context in which a contender's server runs; `start` starts its workers."""

    def __init__(self, contender: Contender, venvs: Venvs, variables: Mapping[str, str] | None = None) -> None:
        """Raises Missing when the contender cannot be run here."""
        self.contender = contender
        own = Path(sys.executable).parent
        self._bin = own if contender.ours else venvs.bin(contender.venv, contender.requirements)
        self._variables = {**contender.variables, **(variables or {})}
        self._flushed = 0.0

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        with self._stack:
            self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
            self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.log = Path(tempfile.mkdtemp(prefix="bench-", dir=MEMORY)) / "records"
            self._stack.callback(shutil.rmtree, self.log.parent, ignore_errors=True)
            self._embedded = Server(self.folder / ".broker") if self.contender.embedded else None
            self.server = None if self._embedded else self._stack.enter_context(TcpServer())
            if self._embedded:
                self._stack.enter_context(self._embedded)
            self._variables |= {"BENCH_LOG": str(self.log), "PYTHONPATH": str(APPS)}
            if self.server:
                self._variables["BENCH_PORT"] = str(self.server.port)
            if self.contender.ours:
                functions = {self.contender.function: self.contender.options}
                url = self.server.url if self.server else None
                self._config = project.write(self.folder, log=self.log, redis=url, functions=functions)
                self._variables["BROKER_CONFIG"] = str(self._config)
            self.crew = self._stack.enter_context(Crew(self.folder / "said"))
            if not self.contender.ours:  # some take seconds to end in order; nothing that they would save is kept
                self._stack.callback(self.crew.kill)
            self._held = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def start(self) -> None:
        """Start the workers."""
        for command in self.contender.commands:
            self.start_command(command)

    def start_command(self, command: str) -> None:
        """Start one command, with its blanks filled in."""
        port = self.server.port if self.server else 0
        filled = command.format(bin=self._bin, port=port, config=self.folder / "config.toml")
        self.crew.start(shlex.split(filled), variables=self._variables, folder=APPS)

    def produce(self, mode: str, function: str, count: int, other: float) -> dict[str, float]:
        """Run its producer to its end; see bench/apps/produce.py."""
        command = [str(self._bin / "python"), "produce.py", self.contender.app, mode, function, str(count), str(other)]
        done = subprocess.run(
            command,
            cwd=APPS,
            env={"PATH": "/usr/bin:/bin", **self._variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.contender.name}: its producer failed: {done.stderr[-1500:]}")
        answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def wait(self, count: int, within: float) -> bool:
        """Wait for so many records; False when they do not come, or a worker ends."""
        end = time.monotonic() + within
        while records.count(self.log) < count:
            now = time.monotonic()
            if now > end or not self.crew.alive():
                return False
            if self._embedded and now - self._flushed > 1:  # as `broker up` does
                self._flushed = now
                self._embedded.flush()
            time.sleep(0.01)
        return True

    def must_wait(self, count: int, within: float) -> None:
        """Wait for so many records. Raises RuntimeError when they do not come."""
        if not self.wait(count, within):
            why = f"within {within:.0f} s" if self.crew.alive() else "before a process of it ended"
            got = records.count(self.log)
            raise RuntimeError(f"{self.contender.name}: {got} of {count} ran {why}: {self.crew.said()}")
