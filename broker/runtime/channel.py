"""Channel: the two lines between a worker and one environment, and the order in which things came over them.

Requests and replies go over a socket, all output over a pipe. The environment writes a marker into the pipe before each
reply, so whoever has read a reply finds every line that belongs to it in the pipe already.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from typing import Annotated

import msgspec

from broker.function import Function
from broker.runtime.inside.frames import FrameError, FrameReader
from broker.runtime.messages import Line
from broker.runtime.output import Output

INIT = "init"
"""The name in the marker that ends what was printed while the handler was imported."""

_RECEIVE = 64 << 10
_PIPE = 64 << 10
_MARKERS = 4096
"""So many markers without replies are nonsense: less is ever sent ahead."""

_SLACK = 2 << 20
"""Bytes of a reply beyond the longest result: its header, or an error with its stack, or a list of files."""

_BUDGET = 256 << 10
_DRAIN_BUDGET = (1 << 20) + _PIPE
"""No pipe holds more (pipe(7), /proc/sys/fs/pipe-max-size), so a marker that was written is found within it."""


Amount = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
"""What an environment may say of itself; more would overflow the sums that are made of it."""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """The header of what an environment says; which fields are set tells what it is about."""

    id: str = ""
    """An attempt has ended, `ok` or not, after `us` microseconds; `rss` is the peak memory in bytes.

    `cpu` is the processor time, in microseconds, that was not told before.
    """
    ok: bool = False
    us: Amount = 0
    rss: Amount = 0
    cpu: Amount = 0
    end: bool = False
    """It exits after this reply: because memory has run out, or for what `message` says."""
    ready: bool = False
    """The handler is imported, after `us` microseconds; the body lists the files."""
    files: bool = False
    """More of the project was imported; the body lists the files."""
    init_error: str = ""
    """The handler cannot be had: the error's name; the body is the error's JSON."""
    message: str = ""


class Said(msgspec.Struct, frozen=True, gc=False):
    """A reply with its body."""

    reply: Reply
    body: bytes


class Printed(msgspec.Struct, frozen=True, gc=False):
    """Lines that stand together."""

    lines: list[Line]
    owner: str | None
    """The name in the marker that ended them; None while no marker has come."""
    ahead: int
    """How many markers before them belong to replies that have not come yet."""


class Broken(Exception):
    """The environment writes what nobody can read."""


_decode = msgspec.json.Decoder(Reply).decode


class Channel:
    """The worker's ends of the lines to one environment. Nothing here blocks."""

    def __init__(self, control: socket.socket, output: int, token: str, function: Function) -> None:
        """Take both ends, set to non-blocking; `token` is what the environment's markers begin with."""
        self.control = control.fileno()
        self.output = output
        self.hung_up = False
        """Nothing more will be received."""
        self.silent = False
        """Nothing more will be printed."""
        self._socket = control
        self._frames = FrameReader(function.max_result + _SLACK)
        self._text = Output(token, function.log_limit, function.log_rate)
        self._replies: deque[Said] = deque()
        self._ahead: deque[str] = deque()
        self._queue: list[bytes] = []
        self._unsent = memoryview(b"")
        self._sizes: list[int] = []  # of the frames in `_unsent`
        self._deaf = False
        self._unread = False
        self._finish = False

    @property
    def wants_write(self) -> bool:
        """Whether something is left to send."""
        return not self._deaf and bool(self._unsent or self._queue)

    @property
    def undelivered(self) -> int:
        """How many of the queued frames, counted from the last, the environment cannot have read."""
        rest, count = len(self._unsent), int(self._unread and not self._unsent)
        while rest > 0:  # the one that was sent in part is among them
            count += 1
            rest -= self._sizes[-count]
        return count + len(self._queue)

    def queue(self, data: bytes) -> None:
        """Add a frame to what `flush` sends."""
        self._queue.append(data)

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        if self._deaf:
            return
        if self._queue:
            self._sizes = [*self._sizes, *map(len, self._queue)] if self._unsent else [*map(len, self._queue)]
            self._unsent = memoryview(b"".join((self._unsent, *self._queue)))
            self._queue.clear()
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            if self._finish:
                self._socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:  # it is gone; what it had answered can still be read
            self._deaf = True

    def finish(self) -> None:
        """Tell the environment, behind all that is queued, that nothing more will come."""
        self._finish = True
        self.flush()

    def read(self, *, final: bool = False) -> list[Said | Printed]:
        """Return what has come, in order: each reply follows the lines it ended.

        A call reads a bounded amount. With `final`, when the processes have ended, it reads to the end.
        Raises Broken when the replies make no sense.
        """
        events: list[Said | Printed] = []
        self._receive(final=final)
        self._hear(events, final=final)
        while self._replies:  # their markers did not come: the function meddled with descriptors
            events.append(self._replies.popleft())
        if final and (rest := self._text.end(_now_ms())):
            events.append(Printed(rest, None, len(self._ahead)))
        return events

    def close(self) -> None:
        """Close both ends; the numbers stay readable, so that they can be unregistered."""
        self.hung_up = self._deaf = True
        self._socket.close()
        with contextlib.suppress(OSError):
            os.close(self.output)
        self.silent = True

    def _receive(self, *, final: bool) -> None:
        more = not self.hung_up
        while more:
            try:
                data = self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return
            except ConnectionResetError:  # unix(7): the other end was closed with data left in it
                data = b""
                self._unread = True
            if not data:
                self.hung_up = True
                return
            more = final or len(data) == _RECEIVE
            try:
                self._replies += [Said(_decode(header), body) for header, body in self._frames.feed(data)]
            except (FrameError, msgspec.DecodeError) as error:
                self.hung_up = True
                raise Broken(str(error)) from error

    def _hear(self, events: list[Said | Printed], *, final: bool) -> None:
        """Read the pipe up to the marker of the last reply, or what is there when no reply waits."""
        self._pair(events)
        wanted = bool(self._replies)
        budget = _DRAIN_BUDGET if wanted or final else _BUDGET
        now_ms = _now_ms()
        while budget > 0 and not self.silent:
            try:
                data = os.read(self.output, _PIPE)
            except BlockingIOError:
                return
            if not data:
                self.silent = True
                return
            for lines, owner in self._text.feed(data, now_ms):
                if lines:
                    events.append(Printed(lines, owner, len(self._ahead)))
                if owner is not None:
                    if len(self._ahead) > _MARKERS:
                        raise Broken("more markers than there are attempts")
                    self._ahead.append(owner)
                    self._pair(events)
            budget -= len(data)
            if not final and not self._replies and (wanted or len(data) < _PIPE):
                return

    def _pair(self, events: list[Said | Printed]) -> None:
        """Put out the replies whose marker has been read."""
        while self._replies:
            reply = self._replies[0].reply
            if not reply.files:
                name = reply.id or INIT
                if name not in self._ahead:
                    return
                while self._ahead.popleft() != name:
                    pass
            events.append(self._replies.popleft())


def _now_ms() -> int:
    return int(time.time() * 1000)
