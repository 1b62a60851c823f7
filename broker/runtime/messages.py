"""Messages: what an environment has to say to its worker."""

from __future__ import annotations

import msgspec

from broker.errors import FunctionError


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line that a function printed."""

    time_ms: int
    """When it was read, in milliseconds since 1970."""
    level: str
    """`DEBUG` ... `CRITICAL`, as far as the line itself says so; else empty."""
    text: str
    """Without its line feed; bytes that are not UTF-8 are written as `\\xNN`."""


class Ready(msgspec.Struct, frozen=True, gc=False):
    """The handler is imported; the environment takes invocations."""

    init_ms: float


class Lines(msgspec.Struct, frozen=True):
    """What was printed, during one invocation or (None) outside any."""

    invocation: str | None
    lines: list[Line]


class Done(msgspec.Struct, frozen=True, gc=False):
    """An attempt has ended, and the environment lives on."""

    invocation: str
    ok: bool
    body: bytes
    """The result as JSON, or the error as JSON: `{"errorMessage", "errorType", "stackTrace"}`, AWS Lambda's shape."""
    duration_ms: float
    max_rss: int
    """Bytes of memory at the peak of this environment so far."""
    cpu_us: int
    """Microseconds of processor time that no message has told yet, of the environment and its children that ended."""


class Died(msgspec.Struct, frozen=True):
    """The environment has ended; nothing of it is left, and no message follows."""

    error: FunctionError
    current: str | None
    """The invocation whose attempt it took along."""
    unstarted: tuple[str, ...]
    """Invocations that had been sent and never began."""
    max_rss: int
    init: bool
    """It never became ready."""
    body: bytes = b""
    """When importing the handler raised: the error as in `Done`; else empty."""
    cpu_us: int = 0
    """As in `Done`."""


Message = Ready | Lines | Done | Died
