"""Log streams: every line a function printed, in a Redis stream a function, with START, END and REPORT.

An entry of `broker:logs:FUNCTION` holds, as `l`, a JSON list of lines, each `[invocation, attempt, time in Unix ms,
level, text]`; the lines of several invocations may share an entry. An entry holds at most about 16 KB of text and the
stream keeps a bounded number of entries, so that no function can fill Redis.

START, END and REPORT are AWS Lambda's:
https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

ENTRY_BYTES = 16 << 10

_encoder = msgspec.json.Encoder()


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One printed line."""

    invocation: str
    attempt: int
    time_ms: int
    """Unix milliseconds."""
    level: str
    """`INFO`, `ERROR` ..., or empty when it is not known."""
    text: str


def key(function: str) -> str:
    """Return the key of a function's log stream."""
    return f"broker:logs:{function}"


def entries(lines: Sequence[Line]) -> Iterator[bytes]:
    """Yield the entries for some lines, each of at most ENTRY_BYTES of text (a single line may be longer)."""
    start, size = 0, 0
    for position, line in enumerate(lines):
        if size and size + len(line.text) > ENTRY_BYTES:
            yield _encoder.encode(lines[start:position])
            start, size = position, 0
        size += len(line.text)
    if start < len(lines):
        yield _encoder.encode(lines[start:])


def start(invocation: str, version: str) -> str:
    """Return the START line of an attempt."""
    return f"START RequestId: {invocation} Version: {version}"


def end(invocation: str) -> str:
    """Return the END line of an attempt."""
    return f"END RequestId: {invocation}"


def report(
    invocation: str,
    *,
    duration_ms: float,
    memory: int,
    used: int,
    init_ms: float | None = None,
    status: str = "",
    version: str = "",
    error: str = "",
) -> str:
    """Return the REPORT line of an attempt; memory and used are in bytes; `version` is that of a deployed function."""
    line = (
        f"REPORT RequestId: {invocation}\tDuration: {duration_ms:.2f} ms\tBilled Duration: {billed_ms(duration_ms)} ms"
        f"\tMemory Size: {memory >> 20} MB\tMax Memory Used: {-(-used >> 20)} MB"
    )
    if init_ms is not None:
        line += f"\tInit Duration: {init_ms:.2f} ms"
    if status:
        line += f"\tStatus: {status}"
    if error:
        line += f"\tError Type: {error}"
    return f"{line}\tVersion: {version}" if version else line


def billed_ms(duration_ms: float) -> int:
    """Return what is billed: whole milliseconds, rounded up."""
    return max(1, math.ceil(duration_ms))
