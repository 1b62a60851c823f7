"""Stdout: what a program prints, told apart into log lines and its result. Pure."""

from __future__ import annotations

from broker.runtime.inside.wire import MAX_RESULT, checked_result

_BLANK = b" \t\r\n"
_JSON = b'{["-0123456789tfnNI'
"""How JSON may begin; N and I are those of NaN and Infinity, which an error is to be made of."""


class Stdout:
    """The result is the last line, if it is JSON, or all lines together, if they are; else there is none.

    A last line that begins as an object or an array does is kept back, so that a result does not stand in the log too.
    """

    def __init__(self, limit: int = MAX_RESULT) -> None:
        """Take how many bytes the result may have."""
        self._limit = limit
        self._line = bytearray()
        """The last line that is not blank, as far as a result may be long, with the blank ones behind it."""
        self._held = False
        """It is not in the log yet."""
        self._ended = True
        self._all: bytearray | None = bytearray()
        """Everything, while that may be a result."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return what is to be logged now."""
        self._remember(data)
        end = len(data.rstrip(_BLANK))
        start = data.rfind(b"\n", 0, end) + 1
        log = b""
        if end and (start or self._ended):
            log = (bytes(self._line) if self._held else b"") + data[:start]
            data = data[start:]
            self._line.clear()
            self._held = data[:1] in (b"{", b"[")
        self._line += data[: self._limit + 1 - len(self._line)]
        if end or b"\n" in data:
            self._ended = b"\n" in data[end - start if end else 0 :]
        return log if self._held else log + data

    def end(self) -> tuple[bool, bytes, bytes]:
        """Return whether there is a result or an error, which, and what is to be logged still."""
        held = bytes(self._line) if self._held else b""
        line, everything = bytes(self._line).strip(_BLANK), bytes(self._all or b"").strip(_BLANK)
        if line[:1] and line[:1] in _JSON:
            ok, body = checked_result(line, self._limit)
            if ok or len(line) > self._limit or b"JSON: there is no" in body:
                return ok, body, b""
        if everything[:1] in (b"{", b"[") and everything != line:
            ok, body = checked_result(everything, self._limit)
            if ok or b"JSON: there is no" in body:
                return ok, body, held
        return True, b"null", held

    def _remember(self, data: bytes) -> None:
        if self._all is not None:
            self._all += data
            if len(self._all) > self._limit:
                self._all = None
