"""Log streams: every line a function printed, in a Redis stream a function, with START, END and REPORT.

An entry of `broker:logs:FUNCTION` holds, as `l`, a JSON list of lines, each `[invocation, attempt, time in Unix ms,
level, text]`; the lines of several invocations may share an entry. An entry holds at most about 16 KB of text and the
stream keeps a bounded number of entries, so that no function can fill Redis.

START, END and REPORT are AWS Lambda's:
https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from redis import Redis

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


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """A line as it is read back."""

    function: str
    invocation: str
    attempt: int
    time_ms: int
    level: str
    text: str


_lines = msgspec.json.Decoder(list[Line])


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


def start(invocation: str) -> str:
    """Return the START line of an attempt."""
    return f"START RequestId: {invocation} Version: $LATEST"


def end(invocation: str) -> str:
    """Return the END line of an attempt."""
    return f"END RequestId: {invocation}"


def report(
    invocation: str, *, duration_ms: float, memory: int, used: int, init_ms: float | None = None, status: str = ""
) -> str:
    """Return the REPORT line of an attempt; memory and used are in bytes."""
    parts = [
        f"REPORT RequestId: {invocation}",
        f"Duration: {duration_ms:.2f} ms",
        f"Billed Duration: {billed_ms(duration_ms)} ms",
        f"Memory Size: {memory >> 20} MB",
        f"Max Memory Used: {math.ceil(used / (1 << 20))} MB",
    ]
    if init_ms is not None:
        parts.append(f"Init Duration: {init_ms:.2f} ms")
    if status:
        parts.append(f"Status: {status}")
    return "\t".join(parts)


def billed_ms(duration_ms: float) -> int:
    """Return what is billed: whole milliseconds, rounded up."""
    return max(1, math.ceil(duration_ms))


def read(
    client: Redis,
    functions: Sequence[str],
    *,
    since_ms: int = 0,
    invocation: str = "",
    grep: str = "",
    follow: bool = False,
) -> Iterator[Logged]:
    """Yield the lines of several functions since a Unix time, in the order they were written; with `follow` for ever.

    `grep` is a regular expression. Raises re.error when it is none, redis' errors when Redis goes away.
    """
    wanted = re.compile(grep) if grep else None
    cursors: dict[Any, Any] = dict.fromkeys(map(key, functions), f"{max(0, since_ms)}-0")
    while cursors:
        answer: Any = client.xread(cursors, count=200, block=1000 if follow else None)
        if not answer:
            if follow:
                continue
            return
        streams = answer.items() if isinstance(answer, dict) else answer
        rows = []
        for stream, found in streams:
            name = stream.decode()
            # redis-py wraps the entries of a stream once more under RESP3
            for id_, fields in found[0] if found and isinstance(found[0], list) else found:
                cursors[name] = id_.decode()
                rows.append((_order_of(id_), name.rpartition(":")[2], fields))
        for _, function, fields in sorted(rows, key=lambda row: row[0]):
            yield from _matching(function, fields, invocation, wanted)


def _order_of(entry: bytes) -> tuple[int, int]:
    time_ms, _, number = entry.partition(b"-")
    return int(time_ms), int(number)


def _matching(
    function: str, fields: dict[bytes, bytes], invocation: str, wanted: re.Pattern[str] | None
) -> Iterator[Logged]:
    if invocation and invocation.encode() not in fields[b"l"]:
        return  # the cheap look first: most entries are of others
    for line in _lines.decode(fields[b"l"]):
        if invocation in {"", line.invocation} and (wanted is None or wanted.search(line.text)):
            yield Logged(
                function=function,
                invocation=line.invocation,
                attempt=line.attempt,
                time_ms=line.time_ms,
                level=line.level,
                text=line.text,
            )
