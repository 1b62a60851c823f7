"""Bootstrap: what runs inside an environment: import the handler, then answer one invocation after another.

It needs nothing beyond the standard library, and of that as little as it can: every warm environment pays for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Mapping
from types import CoroutineType
from typing import Any, NoReturn

from broker.runtime.inside import failure
from broker.runtime.inside.frames import LINE_BREAK, FrameReader, frame, marker
from broker.runtime.inside.loading import HandlerMissing, InitFailed, LoadedFiles, load
from broker.runtime.inside.standard import Context, client_context, context_type, log_to, open_streams, trace_id

_RECEIVE = 64 << 10
"""Bytes; room for more would be mapped from the system, and given back, for each invocation (mallopt(3))."""

_NOTICEABLE = 100
"""Microseconds; to fill a megabyte or to run a program takes longer, so shorter attempts are measured together."""

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode

Handler = Callable[[Any, Context], Any]


class Environment:
    """One function, ready to run, with its two lines to the worker."""

    def __init__(self, spec: Mapping[str, Any], control: socket.socket, output: int) -> None:
        """Take what the worker told the nursery, the control socket, and a private duplicate of the output pipe."""
        self._spec = spec
        self._control = control
        self._output = output
        self._token = spec["token"].encode()
        self._max_result: int = spec["max_result"]
        self._pid = os.getpid()
        self._context = context_type(spec["variables"], spec["arn"])
        self._streams = open_streams()
        self._runner: Any = None
        self._peak = peak(resource.getrusage(resource.RUSAGE_SELF))
        self._cpu = 0
        """Microseconds of processor time that were told already; what comes first is that of importing the handler."""
        self._unmeasured = 0
        os.register_at_fork(after_in_child=self._let_go)

    def run(self) -> None:
        """Import the handler and answer invocations until the worker hangs up."""
        log_to(self._streams[0])
        files = LoadedFiles(self._spec["root"], self._spec["layers"])
        try:
            handler = self._load()
            self._flush()
            self._end_copy()
            self._mark(b"init")
            spent = (time.monotonic() - self._spec["born"]) * 1e6
            self._send(b'{"ready":true,"us":%d}' % spent, _encode(files.new()).encode())
            self._serve(handler, files)
            if self._runner:
                self._runner.close()
        finally:
            self._control.detach()  # stays open to the very end: once it is closed the worker kills what is left

    def _load(self) -> Handler:
        place = self._spec["handler"]
        try:
            return load(place, self._spec["root"])
        except (HandlerMissing, InitFailed) as error:
            self._refuse(type(error).__name__, str(error), error.__cause__)
        except MemoryError as error:
            self._refuse("OutOfMemory", f"importing {place} took more memory than it has", error)

    def _serve(self, handler: Handler, files: LoadedFiles) -> None:
        reader = FrameReader()
        while data := self._control.recv(_RECEIVE):
            for header, event in reader.feed(data):
                self._invoke(handler, header, event)
                if files.grown() and (new := files.new()):
                    self._send(b'{"files":true}', _encode(new).encode())

    def _invoke(self, handler: Handler, header: bytes, event: bytes) -> None:
        """Run one attempt and answer it."""
        start = time.monotonic()
        request = _decode(header.decode())
        exhausted = False
        try:
            os.environ["_X_AMZN_TRACE_ID"] = trace_id(request["id"])
            context = self._context(request["id"], request["attempt"], start + request["timeout_ms"] / 1000)
            if "client" in request:
                context.client_context = client_context(request["client"])
            result = handler(_decode(event.decode()), context)
            if type(result) is CoroutineType:
                result = self._await(result)
            ok, body = self._marshal(result)
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 -- the border to the user's code: what it raises is its failure
            exhausted = isinstance(error, MemoryError)
            ok, body = False, self._report(error)
        self._flush()
        self._end_copy()
        name = request["id"].encode()
        self._mark(name)
        spent = int((time.monotonic() - start) * 1e6)
        outcome = b"true" if ok else b"false"
        end = b"true" if exhausted else b"false"
        self._unmeasured += spent
        cpu = self._measure() if self._unmeasured > _NOTICEABLE else 0
        told = (name, outcome, spent, self._peak, cpu, end)
        self._send(b'{"id":"%b","ok":%b,"us":%d,"rss":%d,"cpu":%d,"end":%b}' % told, body)
        if exhausted:
            os._exit(0)  # nothing here can be relied upon any more

    def _measure(self) -> int:
        """Note the peak of memory; return the processor time since the last call in microseconds, with children's."""
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        self._unmeasured = 0
        self._peak = max(peak(own), peak(children))
        before, self._cpu = self._cpu, processor_time(own, children)
        return self._cpu - before

    def _marshal(self, result: Any) -> tuple[bool, bytes]:
        """Return a result as JSON, or the error that says why it cannot be."""
        if result is None:
            return True, b"null"
        try:
            body = _encode(result).encode()
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 -- the border to the user's code: its objects are iterated
            message = f"the result is not JSON: {error}"
            return False, failure.body("Runtime.MarshalError", message)
        if len(body) > self._max_result:
            message = f"the result has {len(body)} bytes; the limit is {self._max_result}"
            return False, failure.body("Function.ResponseSizeTooLarge", message)
        return True, body

    def _await(self, coroutine: CoroutineType[Any, Any, Any]) -> Any:
        if self._runner is None:
            import asyncio  # noqa: PLC0415 -- 60 ms and 6 MB, only for those who use it

            self._runner = asyncio.Runner()  # one for all: what an invocation leaves in a global belongs to its loop
        return self._runner.run(coroutine)

    def _report(self, error: BaseException) -> bytes:
        """Print an exception as AWS Lambda does; return it as the error's JSON."""
        body, text = failure.describe(error)
        self._flush()
        self._print(text)
        return body

    def _refuse(self, kind: str, message: str, cause: BaseException | None) -> NoReturn:
        """Say why the handler cannot be had, and exit."""
        body, text = failure.describe(cause) if cause else (b"", f"[ERROR] {kind}: {message}\n")
        self._flush()
        self._print(text)
        self._mark(b"init")
        self._send(_encode({"init_error": kind, "message": message}).encode(), body)
        os._exit(1)

    def _end_copy(self) -> None:
        """Exit if this is the copy of us in a child that the user's code forked: only the parent may answer."""
        if os.getpid() != self._pid:
            os._exit(0)

    def _let_go(self) -> None:
        """Close what only the environment itself may use; runs in children that the handler forks."""
        if self._output >= 0:
            self._control.close()
            os.close(self._output)
            self._output = -1

    def _flush(self) -> None:
        """Empty what Python holds back of the output."""
        try:
            for stream in (*self._streams, sys.stdout, sys.stderr):
                stream.flush()
        except Exception:  # noqa: BLE001 -- the border to the user's code, which may have closed or replaced them
            for stream in self._streams:
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()

    def _print(self, text: str) -> None:
        """Write lines into the output, whatever has become of stdout."""
        if self._output < 0:  # in a child that the handler forked
            sys.stderr.write(text)
            return
        self._mark(LINE_BREAK)
        data = memoryview(text.encode(errors="backslashreplace"))
        while data:
            data = data[os.write(self._output, data) :]

    def _mark(self, name: bytes) -> None:
        os.write(self._output, marker(self._token, name))

    def _send(self, header: bytes, body: bytes) -> None:
        self._control.sendall(frame(header, body))


def peak(usage: resource.struct_rusage) -> int:
    """Return the peak of resident memory in bytes (getrusage(2): kilobytes, on macOS bytes)."""
    return usage.ru_maxrss << (0 if sys.platform == "darwin" else 10)


def processor_time(*usages: resource.struct_rusage) -> int:
    """Return processor time in microseconds, the user's and the system's together."""
    return int(sum(usage.ru_utime + usage.ru_stime for usage in usages) * 1e6)
