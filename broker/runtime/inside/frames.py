"""Frames: how the worker, the nursery and the environments write to each other.

A frame is a length (4 bytes, big-endian, of all that follows), a header (one JSON object), a line feed, and a body of
any bytes. A marker is what an environment writes into its own output to say whose lines they were.

All of them import this file, so it needs nothing beyond the standard library.
"""

from __future__ import annotations

MAX_FRAME = 256 << 20
"""Bytes; a longer frame is nonsense, and to believe in it would fill the memory."""

LINE_BREAK = b""
"""The name in a marker that ends an unfinished line and nothing else."""

_LENGTH = 4


class FrameError(ValueError):
    """What came over the socket is not a frame."""


def frame(header: bytes, body: bytes = b"") -> bytes:
    """Return one frame. The header is JSON without line feeds."""
    return b"%b%b\n%b" % ((len(header) + 1 + len(body)).to_bytes(_LENGTH, "big"), header, body)


def marker_prefix(token: bytes) -> bytes:
    """Return how every marker of one environment begins; the token is random, so nobody prints one by accident."""
    return b"\0%b " % token


def marker(token: bytes, name: bytes) -> bytes:
    """Return the marker that ends what `name` has printed.

    It is shorter than PIPE_BUF, so the kernel never mixes it with what others write at the same moment (pipe(7)).
    """
    return b"\0%b %b\n" % (token, name)


class FrameReader:
    """Cuts what a socket delivers into frames."""

    def __init__(self, longest: int = MAX_FRAME) -> None:
        """Take how long a frame may be, in bytes."""
        self._longest = longest
        self._rest = bytearray()
        self._missing = 0

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Take the next bytes; return header and body of each frame that they complete.

        Raises FrameError when they cannot be frames.
        """
        if self._rest:
            self._rest += data
            self._missing -= len(data)
            if self._missing > 0:  # the rest of a large frame: copying it for every piece would take quadratic time
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames = []
        start, needed = 0, _LENGTH
        while len(data) - start >= _LENGTH:
            needed = _LENGTH + int.from_bytes(data[start : start + _LENGTH], "big")
            if needed > self._longest:
                raise FrameError(f"a frame of {needed} bytes")
            end = start + needed
            if end > len(data):
                break
            cut = data.find(b"\n", start + _LENGTH, end)
            if cut < 0:
                raise FrameError("a frame without a header")
            frames.append((data[start + _LENGTH : cut], data[cut + 1 : end]))
            start, needed = end, _LENGTH
        if start < len(data):
            self._rest += data[start:]
            self._missing = needed - (len(data) - start)
        return frames
