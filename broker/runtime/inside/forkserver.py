"""Forkserver: the process that forks environments, reaps them, and leaves nothing of them behind.

A worker starts one, see nursery.py. It has no secrets, one thread, and has imported what an environment needs, so that
a new one is a fork away. It speaks with its worker in frames, over the socket that is its standard input:

    {"start": ID, ...} with the environment's ends of its socket and its pipe  ->  {"started": ID, "pid": PID}
    {"end": ID}: kill it now
    {"remove": PATH}: a folder that nobody uses any more
    {"ended": ID, "status": STATUS OF wait(2), "rss": BYTES, "killed": WAS IT WE, "oom": WAS IT MEMORY.MAX,
     "why": NO PROCESS COULD BE MADE}

`ended` is sent when no process of the environment is left, daemons included; then its /tmp is removed. When the worker
goes away, all environments end, and so does this.
"""

from __future__ import annotations

import array
import contextlib
import faulthandler
import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.runtime.inside import bootstrap, bubble, cgroup, confinement, kernel, limits
from broker.runtime.inside.become import Runs, become
from broker.runtime.inside.frames import FrameReader, frame

_RECEIVE = 64 << 10
_MAX_DESCRIPTORS = 64
_RESCAN = 0.01
_PATIENCE = 3.0
_FIRST_DESCRIPTOR = 100
"""An environment's own descriptors lie from here on, out of the way of code that counts on small numbers."""


@dataclass(kw_only=True)
class _Child:
    name: str
    pid: int
    tmp: str
    cgroup: Path | None
    killed: bool = False
    status: int | None = None
    rss: int = 0
    cpu: int = 0
    ended: float = 0


class _WorkerGone(Exception):
    """The worker has closed its end."""


class Forkserver:
    """Forks environments on request."""

    def __init__(self, worker: socket.socket, scratch: str, home: str) -> None:
        """Take the socket to the worker, the folder of its environments' /tmp folders, and that of their cgroups."""
        self._worker = worker
        self._cgroups = cgroup.Leaves(Path(home) if home else None)
        self._scratch = scratch
        self._frames = FrameReader()
        self._descriptors: deque[int] = deque()
        self._children: dict[str, _Child] = {}
        self._brooms: set[int] = set()
        """The processes that remove folders."""
        self._mark = kernel.variable_address(limits.MARK)
        self._wake, self._waker = socket.socketpair()

    def run(self) -> Runs | None:
        """Serve the worker until it goes away, then return None; in a forked child return the environment to run."""
        for one in (self._wake, self._waker):
            one.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._worker, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ending = any(child.status is not None for child in self._children.values())
            poll.poll(_RESCAN * 1000 if ending else None)
            with contextlib.suppress(BlockingIOError):
                self._wake.recv(_RECEIVE)
            self._reap()
            try:
                requests = self._receive()
            except _WorkerGone:
                self._end_all()
                _sweep(self._scratch)
                return None
            for request in requests:
                if "end" in request:
                    self._end(request["end"])
                elif "remove" in request:
                    self._remove(request["remove"])
                elif environment := self._start(request):
                    return environment

    def _receive(self) -> list[dict[str, Any]]:
        """Return the requests that have come, and keep the descriptors that came with them, in order."""
        try:
            data, ancillary, flags, _ = self._worker.recvmsg(
                _RECEIVE, socket.CMSG_SPACE(_MAX_DESCRIPTORS * 4), socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return []
        except ConnectionError as error:
            raise _WorkerGone from error
        if not data:
            raise _WorkerGone
        if flags & socket.MSG_CTRUNC:  # the next environment would get another one's descriptors
            raise OSError("descriptors were lost on the way from the worker")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._descriptors.extend(array.array("i", payload))
        return [json.loads(header) for header, _ in self._frames.feed(data)]

    def _start(self, request: dict[str, Any]) -> Runs | None:
        """Fork an environment; return it in the child."""
        request["born"] = time.monotonic()
        control, output = self._descriptors.popleft(), self._descriptors.popleft()
        name, parent, bounds = request["start"], os.getpid(), request["bounds"]
        leaf = self._cgroups.bind(memory=bounds["memory"], processes=bounds["processes"])
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(_ended(name, why=f"no process: {error.strerror}"))
        else:
            if not pid:
                return self._become(request, control, output, parent)
            self._children[name] = _Child(name=name, pid=pid, tmp=bounds["tmp"], cgroup=leaf)
            self._tell({"started": name, "pid": pid})
            self._cgroups.move_on()
        os.close(control)
        os.close(output)
        return None

    def _become(self, spec: Mapping[str, Any], control: int, output: int, parent: int) -> Runs:
        """Turn this copy of the fork server into an environment, which shares nothing with it."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for one in (self._worker, self._wake, self._waker):
            one.detach()  # or the object would close a number, one day, that is another file's by then
        os.dup2(output, 1)
        os.dup2(output, 2)
        own = sorted(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR) for fd in (control, output))
        os.closerange(3, own[0])
        os.closerange(own[0] + 1, own[1])
        os.closerange(own[1] + 1, os.sysconf("SC_OPEN_MAX"))
        name = spec["start"]
        kernel.overwrite_variable(self._mark, name)
        kernel.show_name(spec["name"])
        os.environ.update(spec["variables"])
        os.environ[limits.MARK] = name
        time.tzset()
        confinement.confine(spec["bounds"], parent=parent)
        if spec["bounds"]["bubble"]:
            bubble.enter(spec, *own)
        os.chdir(spec["root"])
        return become(spec, *own)

    def _reap(self) -> None:
        """Collect what has ended; report the environments of which nothing is left, and kill what is."""
        by_pid = {child.pid: child for child in self._children.values()}
        with contextlib.suppress(ChildProcessError):
            while (ended := os.wait4(-1, os.WNOHANG))[0]:
                pid, status, usage = ended
                self._brooms.discard(pid)
                if child := by_pid.get(pid):  # else an orphan that came to us
                    child.status, child.rss, child.ended = status, bootstrap.peak(usage), time.monotonic()
                    child.cpu = bootstrap.processor_time(usage)
        for child in [each for each in self._children.values() if each.status is not None]:
            orphans = self._orphans()
            left = limits.members(child.name, child.pid) if orphans else []
            limits.kill(left)
            if child.cgroup:
                cgroup.kill(child.cgroup)
            oom = bool(child.cgroup and cgroup.ran_out_of_memory(child.cgroup))
            gone = not left and not limits.exiting(orphans) and (child.cgroup is None or cgroup.remove(child.cgroup))
            if gone or time.monotonic() - child.ended > _PATIENCE:
                del self._children[child.name]
                self._remove(child.tmp)
                used = (child.status or 0, child.rss, child.cpu)
                self._tell(_ended(child.name, *used, killed=child.killed, oom=oom))
        if not self._children:
            limits.kill(self._orphans())  # they have hidden whose they are; now they can be nobody's

    def _orphans(self) -> set[int]:
        """Return the processes that live here because an environment or a descendant of one has left them."""
        own = {child.pid for child in self._children.values()} | self._brooms
        return set(limits.children(os.getpid())) - own

    def _end(self, name: str) -> None:
        """Kill an environment with all its descendants; those that stand apart are found when it has been reaped."""
        child = self._children.get(name)
        if child and child.status is None:
            child.killed = True
            below = limits.descendants(child.pid)
            if child.cgroup:
                cgroup.kill(child.cgroup)
            limits.kill_group(child.pid)
            limits.kill(below)

    def _end_all(self) -> None:
        """Kill everything below this process, until nothing is left or some seconds have passed."""
        for name in self._children:
            self._end(name)
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            limits.kill(limits.descendants(os.getpid()))
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                time.sleep(0.001)

    def _remove(self, folder: str) -> None:
        """Remove a folder; a process of its own does what may take long."""
        with contextlib.suppress(OSError):
            Path(folder).rmdir()  # most leave nothing in it
        if os.path.lexists(folder):
            with contextlib.suppress(OSError):  # no process could be made: the worker's successor removes it
                pid = os.fork()
                if not pid:
                    self._worker.close()
                    self._cgroups.step_aside()
                    _sweep(folder)
                    os._exit(0)
                self._brooms.add(pid)

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):  # the worker is gone, as the next look at the socket will say
            self._worker.sendall(frame(json.dumps(message).encode()))


def _ended(
    name: str, status: int = 0, rss: int = 0, cpu: int = 0, *, killed: bool = False, oom: bool = False, why: str = ""
) -> dict[str, Any]:
    return {"ended": name, "status": status, "rss": rss, "cpu": cpu, "killed": killed, "oom": oom, "why": why}


def _sweep(folder: str) -> None:
    """Remove a folder with everything in it."""
    import shutil  # noqa: PLC0415 -- a megabyte in each environment, for what only few need

    if os.geteuid():  # root may pass everywhere, and must not be led elsewhere by a link
        for place, below, _ in os.walk(folder):
            for name in below:
                with contextlib.suppress(OSError):
                    Path(place, name).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Be a fork server, and in each forked child an environment."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its life hangs on the worker's socket and nothing else
    worker = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    kernel.adopt_orphans()
    faulthandler.enable(file=2)
    gc.collect()
    gc.disable()
    gc.freeze()  # the collector would write to every page that the environments share
    environment = Forkserver(worker, *sys.argv[2:4]).run()
    if environment:
        environment.run()
