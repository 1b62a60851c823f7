"""Program: the environment of `runtime = "exec"`, which runs a program for each attempt.

The event is its standard input, a file that may be read twice; BROKER_* tell about the attempt; stdout.py finds the
result in what it prints. It runs inside the environment, so it needs nothing beyond the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from broker.runtime.inside import bootstrap, failure, limits
from broker.runtime.inside.become import RESTORED
from broker.runtime.inside.stdout import Stdout
from broker.runtime.inside.wire import Wire, die_like, ending

_PIPE = 64 << 10
_TAIL = 4 << 10
"""Bytes of stderr that become the message of a failure."""

_LAST_READS = 64
"""How often both pipes are read once it has ended: a full one is emptied, and who still writes cannot hold us up."""

_POLL_MS = 20
"""How often is looked whether the program has ended, where no descriptor tells."""

_LONGEST_VARIABLE = 16 << 10
"""Characters; Linux starts no program with a variable of 128 KB (execve(2))."""

_ATTRIBUTES = ("id", "type", "source", "subject")


class ProgramEnvironment:
    """Runs one program again and again."""

    def __init__(self, spec: Mapping[str, Any], control: int, output: int) -> None:
        """Take what the worker told the nursery, and the descriptors of both lines."""
        self._argv = spec["argv"]
        self._name = spec["name"]
        self._max_result = spec["max_result"]
        self._wire = Wire(spec, control, output)

    def run(self) -> None:
        """Answer invocations until the worker hangs up."""
        if not _found(self._argv[0]):
            self._wire.refuse("HandlerMissing", f"there is no program {self._argv[0]}")
            os._exit(1)
        self._wire.ready()
        for request, event in self._wire.requests():
            start = time.monotonic()
            ok, body, rss = self._attempt(request, event)
            spent = int((time.monotonic() - start) * 1e6)
            self._wire.answer(request["id"], ok=ok, body=body, us=spent, rss=rss)

    def _attempt(self, request: Mapping[str, Any], event: bytes) -> tuple[bool, bytes, int]:
        """Run the program once; return whether it succeeded, result or error, and its peak of memory."""
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        given = _file_of(event)
        try:
            pid = self._spawn(given, out_end, err_end, {**os.environ, **self._variables(request, event)})
        except OSError as error:
            os.close(out)
            os.close(err)
            message = f"{self._argv[0]} cannot be run: {error.strerror}"
            if "/" in self._argv[0] and error.strerror == "Exec format error":
                message += "; a script begins with a line such as #!/bin/sh"
            return self._failed("InitFailed", message)
        finally:
            for one in (given, out_end, err_end):
                os.close(one)
        ears = _Ears(self._wire, out, err, self._max_result)
        ears.listen(pid)
        limits.kill_group(pid)  # what it leaves running; it is not waited for yet, so the number is still its own
        _, status, usage = os.wait4(pid, 0)
        ok, body, rest = ears.stdout.end()
        self._wire.write(rest)
        if os.WIFSIGNALED(status):
            die_like(status)
        if status:
            said = ears.tail.decode(errors="replace").strip()
            return self._failed("Runtime.ExitError", ending(status), said, bootstrap.peak(usage))
        return ok, body, bootstrap.peak(usage)

    def _spawn(self, given: int, out: int, err: int, variables: Mapping[str, str]) -> int:
        actions = [(os.POSIX_SPAWN_DUP2, one, number) for number, one in enumerate((given, out, err))]
        return os.posix_spawnp(
            self._argv[0], self._argv, variables, file_actions=actions, setpgroup=0, setsigdef=RESTORED
        )

    def _variables(self, request: Mapping[str, Any], event: bytes) -> dict[str, str]:
        """Return what the program is told about the attempt."""
        told = {
            "BROKER_FUNCTION": self._name,
            "BROKER_INVOCATION": request["id"],
            "BROKER_ATTEMPT": str(request["attempt"]),
            "BROKER_DEADLINE_MS": str(int(time.time() * 1000) + request["timeout_ms"]),
        }
        read = json.loads(event)
        if isinstance(read, dict) and "specversion" in read:
            for name in _ATTRIBUTES:
                if isinstance(value := read.get(name), str) and len(value) <= _LONGEST_VARIABLE:
                    told[f"BROKER_EVENT_{name.upper()}"] = _sayable(value)
        return told

    def _failed(self, kind: str, message: str, said: str = "", rss: int = 0) -> tuple[bool, bytes, int]:
        self._wire.print(f"[ERROR] {kind}: {message}\n")
        return False, failure.body(kind, said or message), rss


class _Ears:
    """Pass on what a program prints until it has ended; what it has left running is not waited for."""

    def __init__(self, wire: Wire, out: int, err: int, max_result: int) -> None:
        self.stdout = Stdout(max_result)
        self.tail = b""
        """The end of stderr."""
        self._wire = wire
        self._out, self._err = out, err
        self._poll = select.poll()
        for one in (out, err):
            os.set_blocking(one, False)
            self._poll.register(one, select.POLLIN)

    def listen(self, pid: int) -> None:
        """Return when the program has ended and all that it printed is passed on."""
        ended = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
        if ended >= 0:
            self._poll.register(ended, select.POLLIN)
        while True:
            ready = {one for one, _ in self._poll.poll(None if ended >= 0 else _POLL_MS)}
            self._hear(ready)
            if ended in ready or (ended < 0 and _has_ended(pid)):
                break
        if ended >= 0:
            self._poll.unregister(ended)
            os.close(ended)
        for _ in range(_LAST_READS):
            if not self._hear({one for one, _ in self._poll.poll(0)}):
                break
        os.close(self._out)
        os.close(self._err)

    def _hear(self, ready: set[int]) -> bool:
        """Read what is there; return whether there was something."""
        heard = False
        for one in (self._out, self._err):
            if one not in ready:
                continue
            with contextlib.suppress(BlockingIOError):
                if data := os.read(one, _PIPE):
                    heard = True
                    self._take(one, data)
                else:
                    self._poll.unregister(one)
        return heard

    def _take(self, one: int, data: bytes) -> None:
        if one == self._out:
            self._wire.write(self.stdout.feed(data))
        else:
            self._wire.write(data)
            self.tail = (self.tail + data)[-_TAIL:]


def _found(program: str) -> bool:
    folders = [""] if "/" in program else os.environ.get("PATH", os.defpath).split(os.pathsep)
    return any(os.access(f"{folder}/{program}" if folder else program, os.X_OK) for folder in folders)


def _file_of(event: bytes) -> int:
    """Return a file with the event, which no other process can name, at its beginning."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("event")
    else:
        with tempfile.TemporaryFile() as opened:
            file = os.dup(opened.fileno())
    data = memoryview(event + b"\n")  # a shell's `read` wants a line
    while data:
        data = data[os.write(file, data) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _sayable(value: str) -> str:
    """Return a value that may be an environment variable."""
    value = value.replace("\0", "")
    try:
        os.fsencode(value)  # lone surrogates that stand for the bytes of a file name become those again
    except UnicodeEncodeError:
        return value.encode(errors="backslashreplace").decode()
    return value
