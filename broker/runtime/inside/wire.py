"""Wire: an environment's two lines to its worker, for those that run other programs; its other end is ../channel.py.

It runs inside the environment, so it needs nothing beyond the standard library.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from broker.runtime.inside import bootstrap, failure, kernel
from broker.runtime.inside.frames import LINE_BREAK, FrameReader, frame, marker

_CPUCLOCK_SCHED = 2  # linux/posix-timers.h: with the complement of a pid above it, the clock of a process

MAX_RESULT = 6 << 20
"""Bytes; the limit of AWS Lambda."""

_RECEIVE = 64 << 10
_WHOSE = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


class Wire:
    """Requests come in over the control socket, answers go out; what is printed goes into the output pipe."""

    def __init__(self, spec: Mapping[str, Any], control: int, output: int) -> None:
        """Take what the worker told the nursery, and the descriptors of both lines."""
        self._token = spec["token"].encode()
        self._born = spec["born"]
        self._socket = socket.socket(fileno=control)
        self._frames = FrameReader()
        self._told = 0
        self.program: int | None = None
        """A child that runs through all invocations."""
        self.control = control
        self.output = output

    def receive(self) -> list[tuple[dict[str, Any], bytes]] | None:
        """Wait for requests; return header and event of each, or None when the worker has hung up."""
        data = self._socket.recv(_RECEIVE)
        return [(json.loads(header), event) for header, event in self._frames.feed(data)] if data else None

    def requests(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Yield header and event of each request until the worker hangs up."""
        while (some := self.receive()) is not None:
            yield from some

    def ready(self, files: Iterable[Path] = ()) -> None:
        """Say that invocations are taken; the environment ends when one of the files changes."""
        self.mark(b"init")
        spent = (time.monotonic() - self._born) * 1e6
        self.send(b'{"ready":true,"us":%d}' % spent, json.dumps([*map(_stamp, files)]).encode())

    def answer(self, invocation: str, *, ok: bool, body: bytes, us: int, rss: int) -> None:
        """Answer an invocation with its result or error object, after all that was printed."""
        self.mark(invocation.encode())
        header = b'{"id":"%b","ok":%b,"us":%d,"rss":%d,"cpu":%d}'
        self.send(header % (invocation.encode(), b"true" if ok else b"false", us, rss, self._processor_time()), body)

    def _processor_time(self) -> int:
        """Return the microseconds of processor time that have not been told yet, ours and those of ended children."""
        before, self._told = self._told, bootstrap.processor_time(*map(resource.getrusage, _WHOSE))
        if self.program is not None:
            self._told += _processor_time_of(self.program)
        return self._told - before

    def refuse(self, kind: str, message: str, body: bytes = b"") -> None:
        """Say why the handler cannot be had; the environment is to exit next."""
        self.print(f"[ERROR] {kind}: {message}\n")
        self.mark(b"init")
        self.send(json.dumps({"init_error": kind, "message": message}).encode(), body)

    def end(self, message: str) -> None:
        """Say that nothing runs, so that what is left in the socket when the environment exits counts as not begun."""
        self.send(json.dumps({"files": True, "end": True, "message": message}).encode(), b"[]")

    def print(self, text: str) -> None:
        """Add lines to what was printed."""
        self.mark(LINE_BREAK)
        self.write(text.encode(errors="backslashreplace"))

    def mark(self, name: bytes) -> None:
        """Mark the end of what `name` has printed."""
        self.write(marker(self._token, name))

    def write(self, data: bytes | memoryview) -> None:
        """Write to the output pipe, also when a program has made it non-blocking for all that share it."""
        data = memoryview(data)
        while data:
            try:
                data = data[os.write(self.output, data) :]
            except BlockingIOError:
                select.select([], [self.output], [])

    def send(self, header: bytes, body: bytes = b"") -> None:
        """Send a frame."""
        self._socket.sendall(frame(header, body))


def _processor_time_of(pid: int) -> int:
    """Return the microseconds of processor time that a living process has used; on Linux, elsewhere 0."""
    if not kernel.LINUX:
        return 0
    try:
        return time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED) // 1000
    except OSError:
        return 0


def checked_result(body: bytes, limit: int = MAX_RESULT) -> tuple[bool, bytes]:
    """Return a program's result as it is when it is JSON and not too long, else the error that says so."""
    if len(body) > limit:
        message = f"the result is longer than the limit of {limit} bytes"  # what is beyond it was not kept
        return False, failure.body("Function.ResponseSizeTooLarge", message)
    try:
        json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return False, failure.body("Runtime.MarshalError", f"the result is not JSON: {error}")
    return True, body


def ending(status: int) -> str:
    """Return how a child has ended (wait(2)), in words."""
    code = os.waitstatus_to_exitcode(status)
    return f"exited with status {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def die_like(status: int) -> NoReturn:
    """End as a child has ended (wait(2)), so that the worker hears how the function's program did."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"there is no {name} in JSON")


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), stat.st_mtime_ns, stat.st_size
