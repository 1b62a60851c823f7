"""The server that the HTTP sources of one address share; their routes come and go while it runs."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from broker.errors import SourceError
from sources._http.bridge import Bridge, Released
from sources._http.listener import Listener
from sources._http.message import CLOSE, Refused, Request, Response, headers_of, say
from sources._http.route import Route, Table

BODIES_LIMIT = 64 << 20
"""Bytes that all bodies still arriving may hold together."""

DRAIN = 0.5
"""Seconds that requests in progress get when a source stops."""

SETTLING = 1.0
"""Seconds after the first endpoint in which a request waits for one that is expected; later it is refused for now."""

RETRY_LATER = (b"retry-after", b"5")


class Endpoint(Protocol):
    """What a source puts on the server."""

    route: Route
    name: str
    log: logging.Logger

    async def answer(self, request: Request, bridge: Bridge) -> Response:
        """Return the response to a request of this route; may raise Refused."""


class _Mount:
    """One endpoint on the server, and how many of its requests are in progress."""

    def __init__(self, endpoint: Endpoint, listener: Listener) -> None:
        self.endpoint = endpoint
        self.route = endpoint.route
        self.listener = listener
        self._bridge = Bridge(listener.loop)
        self._leaving = False
        self._active = 0
        self._idle = threading.Event()

    def drain(self) -> None:
        """Take no more requests, and return when those in progress are answered; called by the source's thread."""
        if self.listener.call(self._leave) and not self._idle.wait(DRAIN):
            self.listener.call(self._bridge.release)
            self._idle.wait(DRAIN)

    def _leave(self) -> None:
        self._leaving = True
        if not self._active:
            self._idle.set()

    async def answer(self, request: Request) -> Response:
        """Return the response to a request, whatever happens."""
        if self._leaving:
            return say(503, RETRY_LATER, CLOSE, message="the broker is stopping")
        self._active += 1
        try:
            return await self.endpoint.answer(request, self._bridge)
        except Refused as refused:
            return refused.response
        except Released:
            return say(503, RETRY_LATER, CLOSE, message="the broker is stopping")
        except Exception:  # the border of a request: it must not end the server, nor tell a stranger what went wrong
            self.endpoint.log.exception("%s %s failed", request.method, request.path)
            return say(500, message="Internal Server Error")
        finally:
            self._active -= 1
            if self._leaving and not self._active:
                self._idle.set()


class _Place:
    """A route, and what serves it now, if anything does."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.expected = False
        """Whether it is the route of a source that may not have started yet, or starts again."""
        self.mount: _Mount | None = None


class Server:
    """One address; starts with the first endpoint that is mounted and ends with the last."""

    def __init__(self, host: str, port: int) -> None:
        """Take the address; port 0 is any free one, see `port`."""
        self._host = host
        self._port = port
        self._lock = threading.Lock()
        self._mounts: list[_Mount] = []
        self._places: list[_Place] = []
        self._table: Table[_Place] = Table()
        self._listener: Listener | None = None
        self._arriving = 0
        self._settled_at = 0.0

    @property
    def port(self) -> int | None:
        """The port on which the server listens now; None while it does not."""
        listener = self._listener
        return listener.port if listener else None

    def expect(self, route: Route) -> None:
        """Take note that an endpoint with this route will come; until then its requests are not answered with 404."""
        with self._lock:
            self._place_of(route).expected = True

    @contextmanager
    def mounted(self, endpoint: Endpoint) -> Iterator[Listener]:
        """Serve an endpoint inside the block, and give what listens for it; should that die, leave the block.

        At its end, requests in progress are finished for up to DRAIN seconds, and those that wait longer answered
        with 503. Raises SourceError when the address cannot be had or another endpoint has that route.
        """
        with self._lock:
            mount = self._add(endpoint)
        try:
            yield mount.listener
        finally:
            mount.drain()
            with self._lock:
                self._remove(mount)

    def _add(self, endpoint: Endpoint) -> _Mount:
        for other in self._mounts:
            if common := sorted(set(other.route.claims) & set(endpoint.route.claims)):
                raise SourceError(f"{common[0]} is already served by the source {other.endpoint.name!r}")
        listener = self._listener
        begins = listener is None or not listener.alive
        if listener is None or begins:
            listener = Listener(self._host, self._port, self._serve)
        mount = _Mount(endpoint, listener)
        self._mounts.append(mount)
        self._place_of(endpoint.route).mount = mount
        if begins:
            self._listener = listener
            self._settled_at = time.monotonic() + SETTLING
            listener.start()
        return mount

    def _remove(self, mount: _Mount) -> None:
        self._mounts.remove(mount)
        place = self._place_of(mount.route)
        place.mount = None
        if not place.expected:
            self._places.remove(place)
            self._table = Table(self._places)
        if not self._mounts and self._listener is not None:
            self._listener.stop()
            self._listener = None

    def _place_of(self, route: Route) -> _Place:
        for place in self._places:
            if place.route == route:
                return place
        place = _Place(route)
        self._places.append(place)
        self._table = Table(self._places)
        return place

    async def _serve(self, scope: Any, receive: Any) -> Response:
        """Return the answer to one request."""
        method, headers = scope["method"], headers_of(scope["headers"])
        match = self._table.find(method, scope["path"])
        if match.found is not None:
            mount = match.found.mount or await self._arrival(match.found)
            if mount is None:
                return say(503, RETRY_LATER, message="the source of this path does not run now")
            request = Request(
                method=method,
                path=scope["path"],
                query=scope["query_string"],
                headers=headers,
                client=scope["client"][0] if scope["client"] else "",
                parameters=match.parameters,
                body=partial(self._read, receive, headers),
            )
            return await mount.answer(request)
        if match.allowed:
            allowed = ", ".join(dict.fromkeys(match.allowed)).encode()
            return say(405, (b"allow", allowed), message=f"this path does not take {method}")
        return say(404, message="no such path")

    async def _arrival(self, place: _Place) -> _Mount | None:
        """Return what serves a place, once it is there; None when it should have been by now."""
        while place.mount is None and time.monotonic() < self._settled_at:  # noqa: ASYNC110 -- they come in threads
            await asyncio.sleep(0.02)
        return place.mount

    async def _read(self, receive: Any, headers: dict[str, str], limit: int) -> bytes:
        """Return the body; it is refused as soon as it is, or says that it will be, too long."""
        if "content-length" not in headers and "transfer-encoding" not in headers:
            return b""
        if int(headers.get("content-length", 0)) > limit:
            raise _too_long(limit)
        chunks: list[bytes] = []
        held = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(say(400, CLOSE, message="the body is incomplete"))
                chunk = message["body"]
                if held + len(chunk) > limit:
                    raise _too_long(limit)
                chunks.append(chunk)
                if not message["more_body"]:
                    return b"".join(chunks)
                held += len(chunk)
                self._arriving += len(chunk)
                if self._arriving > BODIES_LIMIT:
                    raise Refused(say(503, RETRY_LATER, CLOSE, message="too many bodies arrive at once"))
        finally:
            self._arriving -= held


def _too_long(limit: int) -> Refused:
    return Refused(say(413, CLOSE, message=f"the body is longer than {limit}"))
