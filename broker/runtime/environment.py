"""Environment: the worker's end of one process that runs a function.

Nothing here blocks: the worker watches the descriptors, calls `read` when something is there and `tick` in time.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from broker.errors import EnvironmentDied, FunctionError, HandlerMissing, InitFailed, OutOfMemory, TimedOut
from broker.function import Function
from broker.runtime.channel import INIT, Broken, Channel, Printed, Reply
from broker.runtime.imported import Imported
from broker.runtime.inside import limits
from broker.runtime.inside.frames import frame
from broker.runtime.messages import Died, Done, Lines, Message, Ready
from broker.runtime.verdict import verdict
from broker.runtime.watch import IDLE, Watch

FAREWELL = 2.0
"""Seconds that an idle environment gets to end by itself."""

LAST_BREATH = 0.5
"""Seconds from the loss of the connection until the process must have ended by itself."""

REPORT_WAIT = 5.0
"""Seconds that the nursery gets to report the end of what was killed."""

_INIT_ERRORS: dict[str, type[FunctionError]] = {
    error.__name__: error for error in (HandlerMissing, InitFailed, OutOfMemory)
}


class Environment:
    """One process that runs one function, warm between invocations.

    `control` and `output` are the descriptors to watch for reading; they are closed with the `Died` message, and their
    numbers kept. `pending` holds the invocations sent and not answered, in order. `deadline` is the monotonic moment at
    which `tick` has something to do. `imported` are the files of the project that it stands on.
    """

    def __init__(
        self, function: Function, channel: Channel, *, name: str, tmp: Path, end: Callable[[str], None]
    ) -> None:
        """Take the lines to it and its folder for temporary files; `end(name)` asks the nursery to kill it."""
        self.id = name
        self.function = function
        self.pid: int | None = None
        self.started = time.monotonic()
        self.control = channel.control
        self.output = channel.output
        self.pending: deque[str] = deque()
        self.ready = False
        self.dead = False
        self.imported = Imported(self.started)
        self._channel = channel
        self._end = end
        self._timeout_ms = int(function.timeout * 1000)
        self._limit_at = self.started + function.init_timeout
        """When the running attempt, or init, has taken too long."""
        self._watch = Watch(function, tmp, self.started)
        self._killed_at: float | None = None
        self._stop_at: float | None = None
        self._lost_at: float | None = None
        self._why: FunctionError | None = None
        self._overdue: str | None = None
        """The invocation for whose timeout it was killed."""
        self._exhausted = False
        """It ends by itself, because memory ran out or so; what was sent after that never began."""
        self._status: int | None = None
        self._by_us = False
        """The nursery killed it on our request, while it lived."""
        self._starved = False
        """The kernel killed it because its control group had reached its memory limit."""
        self._rss = 0
        self._cpu_us = 0
        """Processor time that messages have told."""
        self._cpu_left_us = 0
        self._refusal = b""
        self.deadline: float | None = None
        self._schedule()

    @property
    def wants_write(self) -> bool:
        """Whether `flush` is to be called once `control` takes more."""
        return self._channel.wants_write

    @property
    def spent(self) -> tuple[int, ...]:
        """Those of its descriptors over which nothing more comes: watched, they would be readable all the time."""
        channel = self._channel
        if not (channel.hung_up or channel.silent):
            return ()
        return (self.control,) * channel.hung_up + (self.output,) * channel.silent

    def send(self, invocation: str, attempt: int, event: bytes, client: bytes = b"") -> None:
        """Queue an attempt; `flush` sends what is queued. `event` and `client` are the JSON that the handler gets.

        The id consists of letters, digits and hyphens. Several may be sent ahead: they run one after another, and each
        has the function's whole timeout. Not after `stop`.
        """
        header = b'{"id":"%b","attempt":%d,"timeout_ms":%d}' % (invocation.encode(), attempt, self._timeout_ms)
        if client:
            header = b'%b,"client":%b}' % (header[:-1], client)
        self._channel.queue(frame(header, event))
        first = not self.pending
        self.pending.append(invocation)
        if first:
            if self.ready:
                self._limit_at = time.monotonic() + self.function.timeout
            self._schedule()

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it now."""
        self._channel.flush()

    def read(self) -> list[Message]:
        """Return what has happened; call it when a descriptor is readable, and after the nursery's `read`.

        After a `Died` nothing more comes.
        """
        messages: list[Message] = []
        if self.dead:
            return messages
        ended = self._status is not None
        try:
            for event in self._channel.read(final=ended):
                if isinstance(event, Printed):
                    messages.append(Lines(self._speaker(event), event.lines))
                else:
                    self._take(event.reply, event.body, messages)
        except Broken as error:
            self.kill(EnvironmentDied(f"wrote nonsense to the broker: {error}"))
        if ended:
            messages.append(self._conclude())
        elif self._channel.hung_up and self._lost_at is None:
            self._lost_at = time.monotonic() + LAST_BREATH
        self._schedule()
        return messages

    def tick(self, now: float) -> list[Message]:
        """Enforce timeout and memory limit; call it when `deadline` has come."""
        if self.dead or self.deadline is None or now < self.deadline:
            return []
        if self._status is not None:
            return self.read()
        messages: list[Message] = []
        if self._killed_at is not None:
            if self.pid is not None:  # the nursery does not answer: do what it should have done
                limits.end_members(self.id, self.pid)
            self._status = signal.SIGKILL
            messages = self.read()
        elif self._lost_at is not None:
            self._put_down()
        elif self._busy() and now >= self._limit_at:
            messages = self.read()  # the answer may be there already
            if self._busy() and now >= self._limit_at:
                self._overdue = self.pending[0] if self.ready else None
                self.kill(self._too_late())
        elif self._stop_at is not None and not self._busy() and now >= self._stop_at:
            self._put_down()
        elif self.pid is not None and (excess := self._watch.look(self.pid, now)):
            self.kill(excess)
        self._schedule()
        return messages

    def stop(self) -> None:
        """Let it end: what was sent is still run; then it exits by itself, or is killed two seconds later."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + FAREWELL
            self._channel.finish()
            self._schedule()

    def kill(self, why: FunctionError) -> None:
        """End all its processes now; a `Died` with this error follows from `read` or `tick`."""
        self._why = self._why or why
        self._put_down()
        self._schedule()

    def born(self, pid: int) -> None:
        """Take the nursery's word that the process runs."""
        self.pid = pid

    def ended(
        self,
        status: int,
        rss: int = 0,
        why: FunctionError | None = None,
        *,
        by_us: bool = False,
        out_of_memory: bool = False,
        cpu_us: int = 0,
    ) -> None:
        """Take the nursery's word that nothing of it is left: status and rusage as of wait4(2)."""
        self._cpu_left_us = cpu_us
        self._status, self._rss, self._by_us = status, max(rss, self._rss, self._watch.peak), by_us
        self._starved = out_of_memory
        self._why = self._why or why
        self._schedule()

    def _busy(self) -> bool:
        return not self.dead and (bool(self.pending) or not self.ready)

    def _schedule(self) -> None:
        if self.dead:
            self.deadline = None
        elif self._status is not None:
            self.deadline = 0.0
        elif self._killed_at is not None:
            self.deadline = self._killed_at + REPORT_WAIT
        elif self._lost_at is not None:
            self.deadline = self._lost_at
        elif self.pending or not self.ready:
            self.deadline = min(self._limit_at, self._watch.at)
        else:
            self.deadline = self._watch.at + IDLE if self._stop_at is None else self._stop_at

    def _put_down(self) -> None:
        if self._killed_at is None and self._status is None:
            self._killed_at = time.monotonic()
            self._end(self.id)

    def _speaker(self, printed: Printed) -> str | None:
        """Return the invocation that printed the lines."""
        if printed.owner is not None:
            return None if printed.owner == INIT else printed.owner
        index = printed.ahead - (not self.ready)
        return self.pending[index] if 0 <= index < len(self.pending) else None

    def _take(self, reply: Reply, body: bytes, messages: list[Message]) -> None:
        if reply.end:
            self._exhausted = True
            memory = f"ran out of memory; the limit is {self.function.memory}"
            self._why = EnvironmentDied(reply.message) if reply.message else OutOfMemory(memory)
        if reply.id:
            if not self.pending or self.pending[0] != reply.id:
                raise Broken(f"an answer for {reply.id!r}, which does not run")
            self.pending.popleft()
            self._turn()
            self._rss = max(self._rss, reply.rss, self._watch.peak)
            self._cpu_us += reply.cpu
            ok = reply.ok
            if ok and len(body) > self.function.max_result:
                ok, body = False, _too_long(len(body), self.function.max_result)
            messages.append(Done(reply.id, ok, body, reply.us / 1000, self._rss, reply.cpu))
        elif reply.init_error:
            self._why = _INIT_ERRORS.get(reply.init_error, InitFailed)(reply.message)
            self._refusal = body
        else:
            try:
                self.imported.add(body)
            except msgspec.DecodeError as error:
                raise Broken(f"its files: {error}") from error
            if reply.ready:
                self.ready = True
                self._turn()
                messages.append(Ready(reply.us / 1000))

    def _turn(self) -> None:
        """Start the clock for the next attempt, or for the farewell."""
        now = time.monotonic()
        self._limit_at = now + self.function.timeout
        if self._stop_at is not None:
            self._stop_at = now + FAREWELL

    def _conclude(self) -> Died:
        """Close everything and say why it ended."""
        self.dead = True
        self._channel.close()
        pending = tuple(self.pending)
        began = self.ready and not self._exhausted and len(pending) > self._channel.undelivered
        current = pending[0] if began else None
        error = self._why or self._verdict()
        if self._overdue and current != self._overdue:  # it answered at the last moment, and the next had begun
            error = EnvironmentDied("was killed because the attempt before this one took too long")
        unstarted = pending[1:] if began else pending
        cpu_us = max(0, self._cpu_left_us - self._cpu_us)
        return Died(error, current, unstarted, self._rss, not self.ready, self._refusal, cpu_us)

    def _verdict(self) -> FunctionError:
        return verdict(
            self.function,
            self._status or 0,
            rss=self._rss,
            starved=self._starved,
            stopping=self._stop_at is not None,
            by_us=self._by_us,
        )

    def _too_late(self) -> TimedOut:
        if not self.ready:
            return TimedOut(f"was not ready after {self.function.init_timeout}")
        return TimedOut(f"timed out after {self.function.timeout}")


def _too_long(length: int, limit: int) -> bytes:
    message = f"the result has {length} bytes; the limit is {int(limit)}"
    return msgspec.json.encode({"errorType": "Function.ResponseSizeTooLarge", "errorMessage": message})
