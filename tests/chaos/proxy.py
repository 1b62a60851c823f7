"""Proxy: a TCP port before a server, whose connections can be cut, or stand still, and restored."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Proxy:
    """Forwards what comes to `port` on this machine; `reach` opens a connection to the server behind."""

    def __init__(self, reach: Callable[[], socket.socket]) -> None:
        self._reach = reach
        self._open = threading.Event()
        self._open.set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._links: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and each new one as soon as it is made."""
        self._open.clear()
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            _end(link)

    def restore(self) -> None:
        """Take connections again."""
        self._open.set()

    def hold(self) -> None:
        """Let nothing through, and break nothing: as a network does that loses every packet."""
        self._flowing.clear()

    def release(self) -> None:
        """Let through what was held, and what comes."""
        self._flowing.set()

    def close(self) -> None:
        self.cut()
        self.release()
        _end(self._listener)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        try:
            if not self._open.is_set():
                raise ConnectionResetError
            far = self._reach()
        except OSError:
            _end(near)
            return
        with self._lock:
            self._links |= {near, far}
            alive = self._open.is_set()
        if not alive:
            _end(near)
            _end(far)
        for here, there in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(here, there), daemon=True).start()

    def _pump(self, here: socket.socket, there: socket.socket) -> None:
        with suppress(OSError):
            while block := here.recv(1 << 16):
                self._flowing.wait()
                there.sendall(block)
        for link in (here, there):
            _end(link)
        with self._lock:
            self._links -= {here, there}


def _end(link: socket.socket) -> None:
    with suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)
    link.close()
