"""The HTTP source: one route; each request becomes an event, and is answered when the event is in Redis, or has run."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

from broker import cloudevents as cloudevents_http
from broker.errors import EventError, EventTooLarge, QueueFull, SourceError, StoreError
from broker.event import Event, new_event, random_id
from broker.quantity import Duration, Size
from broker.source import Outcome, Publishing, Receipt, Source, SourceContext
from sources._http import queued
from sources._http.auth import Auth, Guard, from_elsewhere, is_loopback
from sources._http.bridge import Bridge
from sources._http.gateway import proxied
from sources._http.message import Refused, Request, Response, data_of, payload_of, response_of, say
from sources._http.route import Route
from sources._http.server import RETRY_LATER, Server
from sources._http.signatures import delivery

TYPE = "http.request"
"""The type of the events, except where a request carries CloudEvents."""

ACCEPT_WITHIN = 10.0
"""Seconds in which Redis has to take an event; webhook senders give up soon after."""

LOOK = 2.0
"""Seconds between two looks at whether the server still lives."""

ID_LENGTH = 255


class Http(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route, and what becomes of the requests for it."""

    route: str
    """`POST /hooks/github/{repo}`; the method may be `GET,POST` or `ANY`; see sources/_http/route.py."""
    listen: str = "127.0.0.1:8000"
    """`HOST:PORT`; sources with the same one share a server. Port 0 is any free port, told in the log."""
    reply: Literal["accept", "wait"] = "accept"
    """Answer 202 as soon as the event is safe in Redis, or wait for the function and answer with its result."""
    queue: str | None = None
    """A queue source: the body, which is JSON, becomes a message of it; `?delay=5m&priority=high` are understood."""
    timeout: Duration = Duration(29)
    """How long `wait` waits before it answers 504; the function is not stopped."""
    auth: Auth | None = None
    insecure: bool = False
    """Serve without auth what others can reach: an address beyond this machine, or a name that a proxy stands for."""
    max_body: Size = Size(1 << 20)
    """Longer bodies are answered with 413."""
    raw: bool = False
    """Add the body to the event exactly as it came, for functions that check signatures of their own."""
    keep_headers: tuple[str, ...] = ()
    """Secret headers to leave in the event all the same, such as `cookie`."""
    access_log: bool = False
    """Log a line for each request."""

    def check(self, root: Path) -> list[str]:
        """Return what is wrong with the options."""
        del root
        found = self.auth.mistakes() if self.auth else []
        try:
            Route.parse(self.route)
        except ValueError as error:
            found.append(f"route: {error}")
        try:
            host, _ = _address(self.listen)
        except ValueError as error:
            return [*found, f"listen: {error}"]
        if not self.auth and not self.insecure and not is_loopback(host):
            found.append(
                f"listen: {self.listen} can be reached from other machines, so it needs auth; "
                "or write insecure = true if something before it keeps strangers out"
            )
        return found

    def claims(self, root: Path) -> list[str]:
        """Return the routes on the address, each of which can be served only once."""
        del root
        listen = "{}:{}".format(*_address(self.listen))
        return [f"{method} http://{listen}{shape}" for method, shape in map(str.split, Route.parse(self.route).claims)]

    def feeds(self) -> list[str]:
        """Return the queue that requests are pushed to."""
        return [self.queue] if self.queue else []

    def plan(self, root: Path) -> list[str]:
        """Return the line for `broker check`: `POST http://127.0.0.1:8000/hooks (github signature, accept)`."""
        del root
        pushes = f", pushes to {self.queue}" if self.queue else ""
        return [f"{_shown(Route.parse(self.route), self.listen)} ({self.auth or 'no auth'}, {self.reply}{pushes})"]

    def aws(self, event: dict[str, Any], attempt: int) -> Any:
        """Return API Gateway's request; of a CloudEvent that somebody posted, EventBridge's event."""
        request = proxied(event, Route.parse(self.route)) if event["type"] == TYPE else None
        return request or super().aws(event, attempt)

    def prepare(self, context: SourceContext) -> None:
        """Have the server expect this route, so that no request is lost to a 404 while other sources run already."""
        self._server(context).expect(Route.parse(self.route))

    def run(self, context: SourceContext) -> None:
        """Serve the route until `context.stopping` is set. Raises SourceError when the address cannot be had."""
        if mistakes := self.check(context.root):
            raise SourceError("; ".join(mistakes))
        endpoint = _Endpoint(self, context)
        with self._server(context).mounted(endpoint) as listener:
            address = f"{self.listen.rpartition(':')[0]}:{listener.port}"
            context.log.info("listening: %s", _shown(endpoint.route, address))
            while not context.stopping.wait(LOOK):
                if not listener.alive:
                    raise SourceError(f"the HTTP server on {self.listen} has ended")

    def _server(self, context: SourceContext) -> Server:
        host, port = _address(self.listen)
        server: Server = context.share(("http", host, port), partial(Server, host, port))
        return server


class _Endpoint:
    """Turns the requests of one source into events and answers."""

    def __init__(self, options: Http, context: SourceContext) -> None:
        self.route = Route.parse(options.route)
        self.name = context.name
        self.log = context.log
        self._options = options
        self._context = context
        self._guard = Guard(options.auth)
        self._keep = frozenset(name.lower() for name in options.keep_headers)
        self._signature = options.auth.signature if options.auth else None
        self._how = Publishing(reply=options.reply == "wait")

    async def answer(self, request: Request, bridge: Bridge) -> Response:
        """Return the response to one request; raises Refused."""
        if not self._options.access_log:
            return await self._answer(request, bridge)
        start, status = time.monotonic(), "-"
        try:
            response = await self._answer(request, bridge)
            status = str(response.status)
        except Refused as refused:
            status = str(refused.response.status)
            raise
        finally:
            milliseconds = (time.monotonic() - start) * 1000
            self.log.info("%s %s %r %s %.1f ms", request.client, request.method, request.path, status, milliseconds)
        return response

    async def _answer(self, request: Request, bridge: Bridge) -> Response:
        body = await self._admitted(request)
        try:
            if self._options.queue:
                pushed = queued.message(self._options.queue, body, self._ident(request, None))
                how = queued.publishing(request, reply=self._how.reply)
                return await self._answer_event(pushed, how, bridge)
            if cloudevents_http.carries(request.headers):
                events = [
                    cloudevents_http.adopt(event, self.name) for event in cloudevents_http.read(request.headers, body)
                ]
                if cloudevents_http.is_batch(request.headers):
                    return await self._answer_batch(events, bridge)
                return await self._answer_event(events[0], self._how, bridge)
            payload = payload_of(request, body)
            if greeting := self._greeting(request, payload):
                return greeting
            return await self._answer_event(self._event(request, body, payload), self._how, bridge)
        except EventTooLarge as error:
            return say(413, message=str(error))
        except EventError as error:
            return say(400, message=str(error))
        except QueueFull as error:
            return say(429, RETRY_LATER, message=str(error))
        except (StoreError, TimeoutError):
            return say(503, RETRY_LATER, message="the event could not be stored; send it again")

    async def _admitted(self, request: Request) -> bytes:
        """Return the body of a request that may come in; raises Refused."""
        options, headers = self._options, request.headers
        if options.auth is None and not options.insecure and (why := from_elsewhere(headers)):
            raise Refused(say(403, message=why))
        if why := self._guard.refuses_head(headers):
            raise Refused(say(401, (b"www-authenticate", b"Bearer"), message=why))
        body = await request.body(options.max_body)
        if why := self._guard.refuses_body(headers, body, now=time.time()):
            raise Refused(say(401, message=why))
        return body

    def _greeting(self, request: Request, payload: Any) -> Response | None:
        """Return the answer to what a sender asks when a webhook is set up; it is no event.

        Slack wants its challenge back (https://docs.slack.dev/reference/events/url_verification), GitHub's ping any
        answer (https://docs.github.com/webhooks/webhook-events-and-payloads#ping).
        """
        if self._signature == "slack" and isinstance(payload, dict) and payload.get("type") == "url_verification":
            return say(200, challenge=payload.get("challenge"))
        if self._signature == "github" and request.headers.get("x-github-event") == "ping":
            return say(200, message="pong")
        return None

    def _ident(self, request: Request, payload: Any) -> str:
        """Return the id that the sender gave the request; empty when it gave none."""
        # What the sender signed comes first: whoever replays a request could add a key of his own.
        ident = delivery(self._signature, request.headers, payload) if self._signature else None
        ident = ident or request.headers.get("idempotency-key", "").strip('"')
        if len(ident) > ID_LENGTH:
            raise EventError(f"the id of the request is longer than {ID_LENGTH} characters")
        return ident

    def _event(self, request: Request, body: bytes, payload: Any) -> Event:
        ident = self._ident(request, payload)
        data = data_of(request, self.route.path, body, payload, keep=self._keep, raw=self._options.raw)
        return new_event(
            source=self.name, type=TYPE, id=ident or random_id(), subject=request.path, data=data, is_json=True
        )

    async def _answer_event(self, event: Event, how: Publishing, bridge: Bridge) -> Response:
        receipt = await bridge.answer(partial(self._context.submit_then, event, how), ACCEPT_WITHIN)
        if not self._how.reply:
            return say(202, **_accepted(receipt))
        if not receipt.invocations:
            return say(404, id=receipt.event, message="no function takes this request")
        if receipt.duplicate:
            return say(409, **_accepted(receipt), message="accepted before; the result went to who sent it first")
        return await self._answer_outcome(receipt, bridge)

    async def _answer_outcome(self, receipt: Receipt, bridge: Bridge) -> Response:
        """Wait for the function of the first trigger that matched, and return what its result stands for."""
        future = self._context.outcome(receipt.invocations[0])
        try:
            outcome: Outcome = await bridge.result(future, self._options.timeout)
        except TimeoutError:
            return say(
                504, **_accepted(receipt), message=f"no result within {self._options.timeout}; the function goes on"
            )
        finally:
            future.cancel()  # does nothing to one that has come
        if _is_superseded(outcome):
            return say(409, **_accepted(receipt), message="a later request came within the debounce, and has its place")
        if not outcome.ok:
            return say(502, id=receipt.event, message="Internal Server Error")
        try:
            return response_of(outcome.body)
        except ValueError as error:
            self.log.warning("the result of invocation %s is no HTTP response: %s", outcome.invocation, error)
            return say(502, id=receipt.event, message="Internal Server Error")

    async def _answer_batch(self, events: list[Event], bridge: Bridge) -> Response:
        if self._how.reply:
            return say(422, message='a batch has no one result: this route has reply = "wait"')
        futures = [self._context.submit(event, self._how) for event in events]
        return say(202, events=[_accepted(await bridge.result(future, ACCEPT_WITHIN)) for future in futures])


def _accepted(receipt: Receipt) -> dict[str, Any]:
    answer: dict[str, Any] = {"id": receipt.event, "invocations": receipt.invocations}
    if receipt.duplicate:
        answer["duplicate"] = True
    if receipt.superseded:
        answer["superseded"] = receipt.superseded
    return answer


def _is_superseded(outcome: Outcome) -> bool:
    return not outcome.ok and json.loads(outcome.body).get("errorType") == "Superseded"


def _address(listen: str) -> tuple[str, int]:
    """Return host and port. Raises ValueError."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})", listen)
    if not match or int(match[2]) > 65535:
        raise ValueError(f'expected HOST:PORT such as "127.0.0.1:8000", got {listen!r}')
    host = match[1].strip("[]").lower()
    # One server for the two ways to write it; browsers and curl reach it under both.
    return "127.0.0.1" if host == "localhost" else host, int(match[2])


def _shown(route: Route, listen: str) -> str:
    methods, path = str(route).split(" ", 1)
    return f"{methods} http://{listen}{path}"
