"""Connection: one over which a program asks the Runtime API, see api.py; nothing waits for it."""

from __future__ import annotations

import contextlib
import socket

from broker.runtime.inside.http1 import RequestReader


class Connection:
    """One connection of the program."""

    def __init__(self, end: socket.socket, max_result: int) -> None:
        """Take its end, set to non-blocking, and the bytes that a result may have."""
        self.end = end
        self.reader = RequestReader(max_result + 1)
        self.unsent = b""
        self.closes = False

    def send(self, data: bytes) -> None:
        """Send as much as the socket takes; `flush` sends the rest."""
        self.unsent += data
        self.flush()

    def flush(self) -> None:
        """Send what is left."""
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                self.unsent = self.unsent[self.end.send(self.unsent) :]
