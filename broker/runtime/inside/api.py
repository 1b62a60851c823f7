"""Api: the environment of `runtime = "provided"`: serves the AWS Lambda Runtime API to the function's program.

The program asks for the next invocation over HTTP and posts what has become of it; the worker hears of that in frames.
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html. It runs inside the environment, so it needs nothing
beyond the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.runtime.inside import runtime_api
from broker.runtime.inside.become import RESTORED
from broker.runtime.inside.connection import Connection
from broker.runtime.inside.http1 import BadRequest, Request, response
from broker.runtime.inside.peers import is_ours
from broker.runtime.inside.runtime_api import Refused
from broker.runtime.inside.standard import trace_id
from broker.runtime.inside.wire import Wire, die_like, ending

_RECEIVE = 64 << 10
_FAREWELL = 1.5
"""Seconds that the program gets to end after SIGTERM."""

_LOOK_EVERY = 0.1
"""Seconds between two looks at the memory of the program."""

_POLL_MS = 20
"""How often is looked whether the program has ended, where no descriptor tells."""


@dataclass(kw_only=True)
class _Attempt:
    """What the program works on."""

    id: str
    started: float


class ApiEnvironment:
    """Stands between the worker and one program."""

    def __init__(self, spec: Mapping[str, Any], control: int, output: int) -> None:
        """Take what the worker told the nursery, and the descriptors of both lines."""
        self._spec = spec
        self._max_result: int = spec["max_result"]
        self._wire = Wire(spec, control, output)
        self._poll = select.poll()
        self._watched: dict[int, Callable[[], None]] = {}
        self._connections: dict[int, Connection] = {}
        self._waiting: Connection | None = None
        """The connection over which the program waits for the next invocation."""
        self._queue: deque[tuple[dict[str, Any], bytes]] = deque()
        self._current: _Attempt | None = None
        self._ready = False
        self._peak = 0
        self._looked = 0.0
        self._hung_up = False

    def run(self) -> None:
        """Serve the program until it ends or the worker hangs up."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._start()
        self._watch(self._listener.fileno(), self._accept)
        self._watch(self._wire.control, self._receive)
        while not (self._hung_up and self._current is None and not self._queue):
            for descriptor, _ in self._poll.poll(None if self._ended >= 0 else _POLL_MS):
                if one := self._watched.get(descriptor):
                    one()
            if self._ended < 0:
                self._reap()
        self._take_leave()

    def _start(self) -> None:
        """Start the program."""
        argv = self._spec["argv"]
        host, port = self._listener.getsockname()
        variables = {**os.environ, "AWS_LAMBDA_RUNTIME_API": f"{host}:{port}"}
        try:
            self._pid = os.posix_spawnp(argv[0], argv, variables, setsigdef=RESTORED)
        except OSError as error:
            kind = "HandlerMissing" if isinstance(error, FileNotFoundError) else "InitFailed"
            self._wire.refuse(kind, f"{argv[0]} cannot be run: {error.strerror}")
            os._exit(1)
        self._wire.program = self._pid
        self._ended = os.pidfd_open(self._pid) if hasattr(os, "pidfd_open") else -1
        if self._ended >= 0:
            self._watch(self._ended, self._reap)

    def _watch(self, descriptor: int, do: Callable[[], None], events: int = select.POLLIN) -> None:
        self._poll.register(descriptor, events)
        self._watched[descriptor] = do

    def _forget(self, descriptor: int) -> None:
        if self._watched.pop(descriptor, None):
            self._poll.unregister(descriptor)

    # The worker's side.

    def _receive(self) -> None:
        some = self._wire.receive()
        if some is None:
            self._hung_up = True
            self._forget(self._wire.control)
        else:
            self._queue += some
            self._give()

    def _give(self) -> None:
        """Hand the next invocation to the program, if it waits for one."""
        if self._waiting is None or self._current is not None or not self._queue:
            return
        connection, self._waiting = self._waiting, None
        request, event = self._queue.popleft()
        self._current = _Attempt(id=request["id"], started=time.monotonic())
        headers = {
            "Lambda-Runtime-Aws-Request-Id": request["id"],
            "Lambda-Runtime-Deadline-Ms": str(int(time.time() * 1000) + request["timeout_ms"]),
            "Lambda-Runtime-Invoked-Function-Arn": self._spec["arn"],
            "Lambda-Runtime-Trace-Id": trace_id(request["id"]),
            "Broker-Attempt": str(request["attempt"]),
        }
        if "client" in request:
            headers["Lambda-Runtime-Client-Context"] = json.dumps(request["client"])
        self._send(connection, response("200 OK", event, headers=headers))

    def _answer(self, *, ok: bool, body: bytes) -> None:
        attempt, self._current = self._current, None
        if attempt is not None:
            spent = int((time.monotonic() - attempt.started) * 1e6)
            if (now := time.monotonic()) - self._looked > _LOOK_EVERY:
                self._looked, self._peak = now, _peak(self._pid)
            self._wire.answer(attempt.id, ok=ok, body=body, us=spent, rss=self._peak)

    def _fail(self, kind: str, message: str, body: bytes) -> None:
        self._wire.print(f"[ERROR] {kind}: {message}\n")
        self._answer(ok=False, body=body)

    # The program's side.

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            end, _ = self._listener.accept()
            if not is_ours(end, self._spec["start"]):
                end.close()
                return
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(end, self._max_result)
            self._connections[end.fileno()] = connection
            self._watch(end.fileno(), lambda: self._listen(connection))

    def _listen(self, connection: Connection) -> None:
        try:
            connection.flush()
            data = connection.end.recv(_RECEIVE)
        except BlockingIOError:
            self._rewatch(connection)
            return
        except OSError:
            data = b""
        if not data:
            self._part(connection)
            return
        try:
            requests = connection.reader.feed(data)
        except BadRequest as error:
            connection.closes = True
            self._send(connection, response("400 Bad Request", runtime_api.refusal("BadRequest", str(error))))
            return
        if connection.reader.expecting:
            connection.reader.expecting = False
            self._send(connection, b"HTTP/1.1 100 Continue\r\n\r\n")
        for request in requests:
            self._serve(connection, request)

    def _serve(self, connection: Connection, request: Request) -> None:
        connection.closes = not request.keeps
        try:
            said = self._do(connection, request)
        except Refused as refused:
            said = response(refused.status, runtime_api.refusal(refused.kind, str(refused)))
        if said:
            self._send(connection, said)
        self._give()

    def _do(self, connection: Connection, request: Request) -> bytes:
        """Do what the program asks for; return the response, or nothing when it has to wait."""
        match runtime_api.parts(request):
            case ("GET", "invocation", "next"):
                self._next(connection)
                return b""
            case ("POST", "invocation", id_, "response"):
                self._check(id_)
                ok, body = runtime_api.outcome(request, self._max_result)
                self._answer(ok=ok, body=body)
                if request.length > self._max_result:
                    raise Refused("413 Request Entity Too Large", "RequestEntityTooLarge", "the response is too long")
            case ("POST", "invocation", id_, "error"):
                self._check(id_)
                self._fail(*runtime_api.error(request))
            case ("POST", "init", "error"):
                kind, message, body = runtime_api.error(request)
                self._send(connection, response("202 Accepted", runtime_api.OK))
                self._wire.refuse("InitFailed", f"{kind}: {message}", body)
                os._exit(1)
            case _:
                raise Refused("404 Not Found", "NotFound", f"there is no {request.method} {request.path}")
        return response("202 Accepted", runtime_api.OK)

    def _next(self, connection: Connection) -> None:
        if self._current is not None:
            message = f"invocation {self._current.id} has not been answered"
            raise Refused("403 Forbidden", "InvalidStateTransition", message)
        if not self._ready:
            self._ready = True
            self._wire.ready(runtime_api.files(self._spec))
        self._waiting = connection

    def _check(self, id_: str) -> None:
        if self._current is None or self._current.id != id_:
            raise Refused("400 Bad Request", "InvalidRequestID", "this invocation does not run")

    def _send(self, connection: Connection, data: bytes) -> None:
        try:
            connection.send(data)
        except OSError:
            self._part(connection)
        else:
            self._rewatch(connection)

    def _rewatch(self, connection: Connection) -> None:
        """Watch for room to write only while there is something to write."""
        if connection.closes and not connection.unsent and connection is not self._waiting:
            self._part(connection)
        elif connection.end.fileno() in self._watched:
            self._poll.modify(connection.end.fileno(), select.POLLIN | (select.POLLOUT if connection.unsent else 0))

    def _part(self, connection: Connection) -> None:
        if connection.end.fileno() < 0:
            return
        if self._waiting is connection:
            self._waiting = None
        self._forget(connection.end.fileno())
        del self._connections[connection.end.fileno()]
        connection.end.close()
        unfinished = connection.reader.unfinished
        if unfinished and self._current and unfinished.path.endswith(f"/{self._current.id}/response"):
            kind, message = "Runtime.TruncatedResponse", "the connection was closed within the response"
            self._fail(kind, message, runtime_api.refusal(kind, message))

    # The end.

    def _reap(self) -> None:
        """When the program has ended: take what it has said, and end as it did."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return
        self._accept()
        for connection in list(self._connections.values()):
            self._listen(connection)
        if self._ready and self._current is None:
            self._wire.end(ending(status))
        die_like(status)

    def _take_leave(self) -> None:
        """Ask the program to end, and wait for it a moment; whoever has started us kills what is left."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
        end = time.monotonic() + _FAREWELL
        while time.monotonic() < end:
            if os.waitpid(self._pid, os.WNOHANG)[0]:
                return
            time.sleep(0.005)


def _peak(pid: int) -> int:
    """Return the peak of a process's resident memory in bytes; 0 where nobody tells."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) << 10
    return 0
