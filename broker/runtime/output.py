"""Output: turn the bytes that an environment prints into lines, and tell which invocation printed them.

Pure: it reads no file and knows no clock.
"""

from __future__ import annotations

import re

import msgspec

from broker.quantity import Size
from broker.runtime.inside.frames import marker_prefix
from broker.runtime.messages import Line

LONGEST_LINE = 16 << 10
"""Bytes; a longer line is passed on in pieces."""

LEAST_CHARGE = 32
"""Bytes that a line counts for at the least, so that a flood of empty lines is a flood too."""

_TAG = re.compile(r"\[(DEBUG|INFO|WARNING|ERROR|CRITICAL)\]")
_LEVELS = {
    **{name: name for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")},
    "TRACE": "DEBUG",
    "WARN": "WARNING",
    "FATAL": "CRITICAL",
}


class _Structured(msgspec.Struct):
    level: str = ""


_decode = msgspec.json.Decoder(_Structured).decode


class Output:
    """Cuts one environment's output into lines, of each attempt about `limit` bytes."""

    def __init__(self, token: str, limit: int, rate: int | None = None) -> None:
        """Take what an attempt may print, in bytes, and what may be printed in a second."""
        self._prefix = marker_prefix(token.encode())
        self._limit = limit
        self._left = limit
        self._dropped = 0
        self._rate = rate
        self._burst = self._credit = float(max(rate or 0, LONGEST_LINE))  # any one line may pass
        self._credit_ms = 0
        self._late = 0
        """Bytes dropped because they came too fast."""
        self._tail = b""

    def feed(self, data: bytes, time_ms: int) -> list[tuple[list[Line], str | None]]:
        """Take the next bytes; return the lines before each marker with the name in it, and (None) those after all.

        An unfinished line is kept back until it is finished or a marker comes, whatever is first.
        """
        text, *parts = (self._tail + data).split(self._prefix)
        spans: list[tuple[list[Line], str | None]] = []
        unfinished_marker = b""
        for part in parts:
            name, newline, rest = part.partition(b"\n")
            if not newline:  # only in the last part: the data ends inside a marker
                unfinished_marker = self._prefix + part
                break
            if name:
                spans.append((self._close(text, time_ms), name.decode("ascii", "backslashreplace")))
            elif text:
                spans.append((self._lines(text, time_ms), None))
            text = rest
        text, tail = self._cut(text)
        if text and (lines := self._lines(text, time_ms)):
            spans.append((lines, None))
        self._tail = tail + unfinished_marker
        return spans

    def end(self, time_ms: int) -> list[Line]:
        """Return what was kept back, because nothing more will come."""
        text, self._tail = self._tail, b""
        return self._close(text, time_ms)

    def _cut(self, text: bytes) -> tuple[bytes, bytes]:
        """Split into what is passed on and what is kept back: an unfinished line, or the beginning of a marker."""
        end = text.rfind(b"\n") + 1
        last = len(text) - len(self._prefix)  # what follows may be the beginning of a marker
        if not self._left:
            end = max(end, last)
        while last - end > LONGEST_LINE:
            end = _piece(text, end)
        return text[:end], text[end:]

    def _close(self, text: bytes, time_ms: int) -> list[Line]:
        lines = self._lines(text, time_ms) if text else []
        if self._dropped:
            limit = Size(self._limit)
            notice = f"... output cut: more than {limit} in one attempt; {self._dropped} bytes dropped"
            lines.append(Line(time_ms, "WARNING", notice))
            self._dropped = 0
        if self._late:
            notice = f"... output cut: more than {Size(self._rate or 0)} in a second; {self._late} bytes dropped"
            lines.append(Line(time_ms, "WARNING", notice))
            self._late = 0
        self._left = self._limit
        return lines

    def _lines(self, text: bytes, time_ms: int) -> list[Line]:
        """Return the lines as far as the limit allows, and count what it does not."""
        if not self._left:
            self._dropped += len(text)
            return []
        if self._rate is not None:
            passed = max(0, time_ms - self._credit_ms) / 1000
            self._credit = min(self._burst, self._credit + passed * self._rate)
            self._credit_ms = time_ms
        lines: list[Line] = []
        start = 0
        while start < len(text):
            newline = text.find(b"\n", start, start + LONGEST_LINE + 1)
            if newline >= 0:
                end, following = newline, newline + 1
            elif len(text) - start <= LONGEST_LINE:
                end = following = len(text)
            else:
                end = following = _piece(text, start)
            charge = max(following - start, LEAST_CHARGE)
            if charge > self._left:
                self._left = 0
                self._dropped += len(text) - start
                break
            self._left -= charge
            if self._rate is not None:
                if charge > self._credit:
                    self._late += following - start
                    start = following
                    continue
                self._credit -= charge
            lines.append(_line(text[start:end], time_ms))
            start = following
        return lines


def _piece(text: bytes, start: int) -> int:
    """Return where a piece of a too long line, begun at `start`, ends: not inside a UTF-8 character."""
    end = start + LONGEST_LINE
    for back in range(4):
        if text[end - back] & 0xC0 != 0x80:
            return end - back
    return end


def _line(raw: bytes, time_ms: int) -> Line:
    text = raw.removesuffix(b"\r").decode("utf-8", "backslashreplace")
    return Line(time_ms, level_of(text), text)


def level_of(text: str) -> str:
    """Return the level that a line states: `[ERROR] ...`, or a JSON object with a `level`; else an empty string."""
    if text.startswith("["):
        tag = _TAG.match(text)
        return tag[1] if tag else ""
    if text.startswith("{"):
        try:
            return _LEVELS.get(_decode(text).level.upper(), "")
        except (msgspec.DecodeError, UnicodeEncodeError):
            return ""
    return ""
