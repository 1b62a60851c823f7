"""Nursery: the worker's end of the process from which its environments are forked."""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from broker.errors import EnvironmentDied, FunctionError
from broker.function import Function
from broker.runtime import birth
from broker.runtime.channel import Channel
from broker.runtime.environment import Environment
from broker.runtime.inside import cgroup, limits
from broker.runtime.inside.frames import FrameReader, frame
from broker.runtime.isolation import NONE, Isolation
from broker.runtime.scratch import Scratch, abandoned
from broker.runtime.stage import Stage

REPORT_WAIT = 5.0
"""Seconds that the process gets to end with all its environments."""

PATIENCE = 1.0
"""Seconds that the process may take to read a request; one that takes longer is stuck."""

_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from broker.runtime.inside.forkserver import main; main()"
"""The nursery as a program: its module is imported, so it is compiled once and is not the functions' `__main__`."""


class Nursery:
    """The worker's end of the nursery, the process that forks environments.

    One that has died is replaced with the next `start`; the descriptor to watch stays the same.
    """

    def __init__(self, root: Path, isolation: Isolation = NONE) -> None:
        """Take the folder of config.toml, in which functions run, and start the process."""
        self.isolation = isolation
        self.root = root.resolve()
        self.alive = False
        self._scratch = Scratch()
        self._cgroup = cgroup.claim()
        self._environments: dict[str, Environment] = {}
        self._selector = selectors.DefaultSelector()  # its descriptor outlives that of the socket in it
        self._launch()
        for folder in abandoned():
            self._ask(frame(msgspec.json.encode({"remove": str(folder)})))

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the descriptor to watch for reading."""
        return self._selector.fileno()

    def start(self, function: Function, stage: Stage | None = None) -> Environment:
        """Return a new environment at once; invocations may be sent to it, and `Ready` or `Died` follows.

        Without a stage it runs in the folder of config.toml. Raises OSError when there are no descriptors left.
        """
        if not self.alive:
            self._launch()
        name, token = secrets.token_hex(16), secrets.token_hex(8)
        output, into = os.pipe()
        try:
            control, theirs = socket.socketpair()
        except OSError:
            os.close(output)
            os.close(into)
            raise
        control.setblocking(False)
        os.set_blocking(output, False)
        channel = Channel(control, output, token, function)
        tmp = self._scratch.folder(name)
        environment = Environment(function, channel, name=name, tmp=tmp, end=self._end)
        if function.isolation == "bwrap":
            environment.imported.expire_with(self.isolation.hidden_files())
        self._environments[name] = environment
        stage = stage or Stage(root=self.root)
        request = birth.request(
            function,
            environment=name,
            token=token,
            stage=stage,
            bounds=self.isolation.bounds(function, tmp),
            told=self.isolation.variables(function, tmp),
        )
        try:
            self._ask(request, theirs.fileno(), into)
        except OSError:
            self._bury()
        finally:
            theirs.close()
            os.close(into)
        return environment

    def refuse(self, function: Function, why: FunctionError) -> Environment:
        """Return an environment that has died already in init: what the function stands on cannot be had."""
        output, into = os.pipe()
        control, theirs = socket.socketpair()
        theirs.close()
        os.close(into)
        control.setblocking(False)
        os.set_blocking(output, False)
        channel = Channel(control, output, secrets.token_hex(8), function)
        name = secrets.token_hex(16)
        environment = Environment(function, channel, name=name, tmp=self._scratch.folder(name), end=self._end)
        environment.ended(0, why=why)
        return environment

    def read(self) -> list[Environment]:
        """Take what the nursery reports; return the environments that have ended, whose `read` tells more."""
        if not self.alive:
            return []
        try:
            data = self._socket.recv(64 << 10)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            return self._bury()
        ended = []
        for header, _ in self._frames.feed(data):
            report = msgspec.json.decode(header)
            if "started" in report:
                self._environments[report["started"]].born(report["pid"])
            else:
                environment = self._environments.pop(report["ended"])
                why = EnvironmentDied(report["why"]) if report["why"] else None
                environment.ended(
                    report["status"],
                    report["rss"],
                    why,
                    by_us=report["killed"],
                    out_of_memory=report["oom"],
                    cpu_us=report["cpu"],
                )
                ended.append(environment)
        return ended

    def close(self) -> None:
        """End all environments and the nursery; return when no process is left, within seconds."""
        if self.alive:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(REPORT_WAIT)
        for environment in self._bury():
            environment.read()
        self._selector.close()
        self._scratch.close()
        if self._cgroup:
            cgroup.release(self._cgroup)

    def _launch(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self._frames = FrameReader()
        package = str(Path(__file__).parents[2])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, package, str(self._scratch.path), str(self._cgroup or "")],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=birth.nursery_variables(),
                cwd="/",
                start_new_session=True,
            )
        self._selector.register(self._socket, selectors.EVENT_READ)
        self.alive = True

    def _end(self, name: str) -> None:
        with contextlib.suppress(OSError):  # a dead nursery is noticed by `read`, and its environments with it
            self._ask(frame(msgspec.json.encode({"end": name})))

    def _ask(self, request: bytes, *descriptors: int) -> None:
        """Send a request. It fits into the socket's buffer; a nursery that leaves it full for a second is stuck."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)  # a function of the same user may have stopped it
        end = time.monotonic() + PATIENCE
        while request:
            try:
                request = request[socket.send_fds(self._socket, [request], descriptors) :]
                descriptors = ()
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.001)

    def _bury(self) -> list[Environment]:
        """Take a nursery for dead: end it and what it may have left."""
        if not self.alive:
            return []
        self.alive = False
        self._selector.unregister(self._socket)
        self._socket.close()
        orderly = self._process.poll() == 0
        self._process.kill()
        self._process.wait()
        ended = list(self._environments.values())
        self._environments.clear()
        for environment in ended:
            if environment.pid is not None and not orderly:
                limits.end_members(environment.id, environment.pid)
            environment.ended(signal.SIGKILL, why=EnvironmentDied("ended because its nursery did"))
        return ended
