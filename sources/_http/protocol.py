"""Protocol: HTTP/1.1 as uvicorn has it, with limits on what a client may send and take, and responses in one piece."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from sources._http.message import CLOSE, Response, say

log = logging.getLogger(__name__)

Serve = Callable[[Any, Any], Awaitable[Response]]
"""What answers requests: it is given `scope` and `receive` as an ASGI application is, and returns the response."""

HEAD_LIMIT = 32 << 10
"""Bytes that the request line and the headers may have together, and that may come without completing anything."""

HEAD_COUNT = 100
"""Headers that a request may have."""

HEAD_TIMEOUT = 10.0
"""Seconds that a client may take for the head of a request, and be silent on an open connection."""

BODY_TIMEOUT = 60.0
"""Seconds that a client may take for the body."""

SEND_TIMEOUT = 60.0
"""Seconds in which a client has to take something of what is sent to it."""

_BODILESS = frozenset({204, 205, 304})
"""Statuses of responses that have no body, whatever a function says."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, which has no limits on heads and no timeout for them, with both.

    Responses are sent in one piece, past ASGI's messages: to take these apart took as long as all else of a response.
    Trailers are dropped: they would turn up among the headers after these were judged. To upgrade to another protocol
    is declined without a word, as RFC 9110 (7.8) allows. The parser takes what follows such a head for that protocol,
    and would lose the body: Java's HttpClient asks for HTTP/2 with each of its requests.

    Much of what is overridden here is private to uvicorn: pyproject.toml names the versions that have it.
    """

    _deadline: float | None = None
    """When what the client is sending has to be complete, by the loop's clock; None while it is the server's turn."""
    _head = 0
    """Bytes of the head so far."""
    _unparsed = 0
    """Bytes received since the parser last completed something."""
    _in_head = False
    _in_body = False
    _unsent = 0
    """Bytes that the client had not taken at the last look."""
    _taken_at = 0.0
    """When it was seen last that it took some, or had nothing to take."""

    def end_if_deaf(self, now: float) -> None:
        """End the connection of a client that takes nothing of what is sent to it: closed, it would wait for that."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent or not self._unsent:
            self._taken_at = now
        self._unsent = unsent
        if now >= self._taken_at + SEND_TIMEOUT:
            self.transport.abort()

    def end_if_late(self, now: float) -> None:
        """Close the connection when the client has let its deadline pass."""
        # With a pipeline it is the server that does not read on.
        if self._deadline is None or now < self._deadline or self.pipeline:
            return
        if self._in_body and not self.cycle.response_started:
            self.transport.write(_TOO_SLOW)
        self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._deadline = self.loop.time() + HEAD_TIMEOUT

    def data_received(self, data: bytes) -> None:
        self._unparsed += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._unparsed > HEAD_LIMIT and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def _parse(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(rest)[upgrade.args[0] :]
                self._begin_again()
            else:
                return

    def _begin_again(self) -> None:
        """Have the head that was just read read once more, as if it had not asked for an upgrade."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":  # what follows is another protocol in any case
            raise httptools.HttpParserError("no tunnels here")
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(kept))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self.parser.feed_data(head)

    def send_400_response(self, msg: str) -> None:
        if self._in_head and self._too_large():
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._deadline = self.loop.time() + HEAD_TIMEOUT
        self._in_head, self._in_body = True, False
        self._head = self._unparsed = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)
            self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # it is read again
        self._in_head, self._in_body = False, True
        self._deadline = self.loop.time() + BODY_TIMEOUT
        self._unparsed = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_body = False
        # Answered already, before its body had come: then it is the client's turn again.
        self._deadline = self.loop.time() + HEAD_TIMEOUT if self.cycle.response_complete else None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        another = bool(self.pipeline)
        super().on_response_complete()
        if not another:
            self._deadline = self.loop.time() + HEAD_TIMEOUT
        elif self._deadline is not None:  # its body had to wait, so it gets its time now
            self._deadline = self.loop.time() + BODY_TIMEOUT

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if app is not self.app:  # too many connections
            super()._start_asgi_task(cycle, app)
            return
        task = self.loop.create_task(self._answer(cycle))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _answer(self, cycle: RequestResponseCycle) -> None:
        serve: Serve = self.app
        try:
            response = await serve(cycle.scope, cycle.receive)
        except asyncio.CancelledError:  # the server ends, and does not wait any longer
            self.transport.close()
            raise
        except Exception:  # the border of a request: it must not end the server, nor tell a stranger what went wrong
            log.exception("a request failed")
            response = say(500, CLOSE, message="Internal Server Error")
        if self.flow.write_paused and not cycle.disconnected:
            await self.flow.drain()
        if not cycle.disconnected:
            self._send(cycle, response)
        cycle.on_response = lambda: None  # it leads back here, and would keep both until a collection

    def _send(self, cycle: RequestResponseCycle, response: Response) -> None:
        keeps = cycle.keep_alive and CLOSE not in response.headers
        lines = [*self.server_state.default_headers, *response.headers]
        if not keeps and CLOSE not in lines:
            lines.append(CLOSE)
        body = response.body
        if response.status in _BODILESS:
            body = b""
        if response.status not in {204, 304}:  # RFC 9110 (8.6): no length may be told, or that of what is not sent
            lines.append((b"content-length", b"%d" % len(body)))
        head = b"".join([b"%b: %b\r\n" % line for line in lines])
        if cycle.scope["method"] == "HEAD":
            body = b""
        cycle.response_started = cycle.response_complete = True
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[response.status], head, body))
        cycle.message_event.set()
        if not keeps:
            self.transport.close()
        cycle.on_response()

    def _count(self, size: int) -> None:
        self._head += size
        self._unparsed = 0
        if self._too_large():
            raise ValueError("the head of the request is too large")  # the parser stops; see send_400_response

    def _too_large(self) -> bool:
        return self._head > HEAD_LIMIT or len(self.headers) > HEAD_COUNT
