"""Listener: a socket, an event loop and uvicorn in a thread of their own, with limits on what a client may cost."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate

import uvicorn

from broker.errors import SourceError
from sources._http.protocol import Protocol, Serve

log = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between two looks at who is late."""

CONNECTIONS = 512
"""Connections at once; well below the usual limit of 1024 open files, which Redis and other sources need too."""

STOP = 2.0
"""Seconds that the thread gets to end; its connections get one of them."""


class Listener:
    """A server; it listens when made, answers from `start` on, and is ended by `stop`."""

    def __init__(self, host: str, port: int, serve: Serve) -> None:
        """Listen on the address, for what answers the requests. Raises SourceError when the address cannot be had."""
        listening = _listen(host, port)
        self.port: int = listening.getsockname()[1]
        config = uvicorn.Config(
            serve,  # which Protocol calls
            http=Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",  # strangers send nonsense all day; what fails in here is logged by the endpoints
            access_log=False,
            proxy_headers=False,  # anyone can send X-Forwarded-For
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        make_loop = config.get_loop_factory()
        self.loop = make_loop() if make_loop else asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=[listening], name=f"http-{host}:{self.port}", daemon=True
        )

    def start(self) -> None:
        """Answer requests."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive()

    def call(self, function: Callable[[], object]) -> bool:
        """Have the loop's thread call the function soon; False when it has ended."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function)
            return True
        return False

    def stop(self) -> None:
        """Close the socket, let connections finish for a second, end the thread."""
        self._server.should_exit = True
        self.call(self._server.stop.set)
        self._thread.join(STOP)

    def _run(self, listening: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._server.serve([listening]))


def _listen(host: str, port: int) -> socket.socket:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, number)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise SourceError(f"cannot listen on {shown}: {_advice(error)}") from error
    return listening


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return 'another program listens there; end it, or write another port: listen = "127.0.0.1:8001"'
    if error.errno == errno.EACCES:
        return "ports below 1024 need a privilege; take a higher one, and let a proxy stand before it"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return "this machine has no such address"
    return os.strerror(error.errno) if error.errno else str(error)


class _Server(uvicorn.Server):
    """uvicorn's server, which also ends the connections whose requests do not come."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        """Do what is due every second until `stop` is set; uvicorn itself wakes ten times a second."""
        self._tick(asyncio.get_running_loop())
        await self.stop.wait()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(TICK, self._tick, loop)  # first: whatever happens below, there is another
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        for connection in list(self.server_state.connections):
            if isinstance(connection, Protocol):
                connection.end_if_deaf(loop.time())
                connection.end_if_late(loop.time())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End; who has not sent a whole request by now is not waited for."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, Protocol):
                connection.end_if_late(math.inf)
        await super().shutdown(sockets)
