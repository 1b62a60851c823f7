"""The HTTP source and clients that send too much, too slowly, or what no client should."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest
import redis

from broker.quantity import Size
from sources._http.listener import Listener
from sources._http.message import Response
from sources._http.protocol import Protocol
from sources.http import Http
from tests.conftest import until
from tests.source_context import RealContext, running

HEAD = b"POST /hook HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.fixture(scope="module")
def context(redis_server, tmp_path_factory):
    """One source with a limit of 1000 bytes for all of these tests."""
    client = redis.Redis.from_url(redis_server.url)
    context = RealContext(client, tmp_path_factory.mktemp("root"), name="hooks")
    with running(Http(route="POST /hook", listen="127.0.0.1:0", max_body=Size(1000)), context):
        yield context
    client.close()


@pytest.fixture
def connect(context, redis_client):
    """Return a function that opens a connection; Redis is empty."""
    server = until(lambda: context._shared.get(("http", "127.0.0.1", 0)), what="the source asks for a server")
    until(lambda: server._mounts, what="its route is served")
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))


def answer(connection, *, whole=True):
    """Return status and JSON of the next response; `whole`: the server then closes the connection."""
    received = b""
    while whole or b"\r\n\r\n" not in received:
        try:
            if not (more := connection.recv(65536)):
                break
        except ConnectionResetError:
            break
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


def exchange(connection, request):
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(request)
    return answer(connection)


def flood(connection, piece):
    """Send the piece over and over until the server has had enough; return how many bytes that took."""
    sent = 0
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while sent < 50_000_000:
            connection.sendall(piece)
            sent += len(piece)
    return sent


def chunked(*chunks, last=b"0\r\n\r\n"):
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + last


CLOSE = b"Connection: close\r\n"


@pytest.mark.parametrize(("size", "status"), [(1000, 202), (1001, 413)])
def test_a_body_may_be_as_long_as_max_body_and_no_longer(context, connect, size, status):
    body = b"x" * size
    declared, _ = exchange(connect(), HEAD + CLOSE + b"Content-Length: %d\r\n\r\n" % size + body)
    in_chunks, _ = exchange(
        connect(), HEAD + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body[:500], body[500:])
    )
    assert (declared, in_chunks) == (status, status)
    assert context.count() == (2 if status == 202 else 0)


def test_a_body_that_says_it_is_too_long_is_refused_before_it_comes(connect):
    assert exchange(connect(), HEAD + b"Content-Length: 1000000000\r\n\r\n")[0] == 413


def test_a_client_that_asks_first_does_not_send_a_body_that_is_too_long(connect):
    status, _ = exchange(connect(), HEAD + b"Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
    assert status == 413
    connection = connect()
    connection.sendall(HEAD + CLOSE + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert answer(connection, whole=False)[0] == 100
    assert exchange(connection, b"ab")[0] == 202


def test_a_body_without_an_end_is_refused_as_soon_as_it_is_too_long(connect):
    connection = connect()
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    assert flood(connection, chunked(b"x" * 10_000, last=b"")) < 50_000_000


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_no_event(context, connect):
    connection = connect()
    connection.sendall(HEAD + b"Content-Length: 10\r\n\r\nabc")
    connection.shutdown(socket.SHUT_WR)
    connection.close()
    assert exchange(connect(), HEAD + CLOSE + b"\r\n")[0] == 202
    assert context.count() == 1


@pytest.mark.parametrize(
    "headers",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 3, 4\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"X: a\r\n b: c\r\n",
        b"X: a\rTransfer-Encoding: chunked\r\n",
        b"X\x00: a\r\n",
        b"no colon\r\n",
    ],
)
def test_a_request_that_two_servers_could_read_differently_is_refused(context, connect, headers):
    """Request smuggling: https://datatracker.ietf.org/doc/html/rfc9112#section-11.2."""
    status, _ = exchange(connect(), HEAD + headers + b"\r\n0\r\n\r\nPOST /hook HTTP/1.1\r\n\r\n")
    assert status == 400
    assert context.count() == 0


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/9.9\r\n",
        b"HELLO\r\n",
        b"\x16\x03\x01\x02\x00",
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"POST /\x00 HTTP/1.1\r\n",
    ],
)
def test_what_is_no_request_is_refused(connect, line):
    assert exchange(connect(), line + b"\r\n")[0] in (0, 400, 404)


def test_trailers_are_no_headers(context, connect):
    trailers = b"0\r\nX-Late: 1\r\nContent-Type: application/json\r\n\r\n"
    status, _ = exchange(
        connect(), HEAD + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"abc", last=trailers)
    )
    assert status == 202
    assert sorted(context.records()[0]["data"]["headers"]) == ["connection", "host", "transfer-encoding"]


@pytest.mark.parametrize(
    "request_head",
    [
        HEAD + b"X: " + b"a" * 40_000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: a\r\n" % number for number in range(101)) + b"\r\n",
        b"POST /hook?" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_a_head_that_is_too_large_is_refused(context, connect, request_head):
    assert exchange(connect(), request_head)[0] == 431
    assert context.count() == 0


@pytest.mark.parametrize(
    "start",
    [
        HEAD + b"X: ",  # a header without an end
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ",  # a trailer without an end
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;x=",  # a chunk extension without an end
    ],
)
def test_what_never_ends_is_cut_off(connect, start):
    connection = connect()
    connection.sendall(start)
    assert flood(connection, b"a" * 10_000) < 50_000_000


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"", 0), (b"\r\n", 0), (b"POST /ho", 0), (HEAD, 0), (HEAD + b"Content-Length: 9\r\n\r\nabc", 408)],
)
def test_a_client_that_does_not_finish_its_request_is_let_go(connect, monkeypatch, sent, status):
    monkeypatch.setattr("sources._http.protocol.HEAD_TIMEOUT", 0.05)
    monkeypatch.setattr("sources._http.protocol.BODY_TIMEOUT", 0.05)
    assert exchange(connect(), sent)[0] == status


def test_a_client_cannot_hold_a_connection_with_empty_lines(connect, monkeypatch):
    monkeypatch.setattr("sources._http.protocol.HEAD_TIMEOUT", 0.05)
    connection = connect()
    connection.sendall(HEAD + b"\r\n")
    assert answer(connection, whole=False)[0] == 202

    connection.settimeout(0.05)

    def closed():
        try:
            connection.sendall(b"\r\n")
            return connection.recv(1000) == b""
        except TimeoutError:
            return False
        except (ConnectionResetError, BrokenPipeError):
            return True

    until(closed)


def test_requests_of_one_connection_are_answered_in_order(context, connect):
    requests = [HEAD + b"Idempotency-Key: %d\r\nContent-Length: 1\r\n\r\nx" % number for number in range(20)]
    requests.append(HEAD + CLOSE + b"Idempotency-Key: last\r\n\r\n")
    connection = connect()
    connection.sendall(b"".join(requests))
    _, received = answer(connection)
    ids = [
        json.loads(part.partition(b"}")[0] + b"}")["id"] for part in (b"{" + rest for rest in received.split(b"{")[1:])
    ]
    assert ids == [*(str(number) for number in range(20)), "last"]
    assert [record["id"] for record in context.records()] == ids


def test_http_1_0_is_answered_and_closed(connect):
    assert exchange(connect(), b"POST /hook HTTP/1.0\r\n\r\n")[0] == 202


def test_an_upgrade_is_not_followed(connect):
    status, _ = exchange(connect(), HEAD + CLOSE + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert status == 202


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"


def test_a_request_that_asks_for_an_upgrade_keeps_its_body(context, connect):
    """Java's HttpClient asks for HTTP/2 with each."""
    in_chunks = HEAD + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"ab", b"c")
    declared = HEAD + UPGRADE + b"Content-Length: 3\r\n\r\n"
    connection = connect()
    connection.sendall(in_chunks + HEAD + UPGRADE + b"\r\n" + declared)
    until(lambda: context.count() == 2)
    status, _ = exchange(connection, b"def" + HEAD + CLOSE + b"Content-Length: 3\r\n\r\nghi")
    assert status == 202
    assert [record["data"]["body"] for record in context.records()] == ["abc", None, "def", "ghi"]


def test_many_upgrades_in_one_piece_are_read_one_after_another(context, connect):
    request = b"GET / HTTP/1.1\r\nConnection:upgrade\r\nUpgrade:x\r\n\r\n"
    connection = connect()
    connection.sendall(request * 2000 + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    _, received = answer(connection)
    assert received.count(b"HTTP/1.1 404") == 2000


def test_all_bodies_together_have_a_limit(context, connect, monkeypatch):
    monkeypatch.setattr("sources._http.server.BODIES_LIMIT", 1500)
    server = context._shared["http", "127.0.0.1", 0]
    first = connect()
    first.sendall(HEAD + CLOSE + b"Content-Length: 1000\r\n\r\n" + b"x" * 999)
    until(lambda: server._arriving == 999)
    assert exchange(connect(), HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 999)[0] == 503
    assert exchange(first, b"x")[0] == 202
    assert server._arriving == 0


@pytest.fixture
def big():
    """A server whose responses are larger than what the kernel keeps of them."""

    async def serve(scope, receive):
        return Response(status=200, headers=[], body=b"x" * 20_000_000)

    listener = Listener("127.0.0.1", 0, serve)
    listener.start()
    yield listener
    listener.stop()


def test_a_client_that_takes_nothing_is_let_go(big, monkeypatch):
    monkeypatch.setattr("sources._http.protocol.SEND_TIMEOUT", 0.05)
    with socket.create_connection(("127.0.0.1", big.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        until(lambda: big._server.server_state.total_requests == 1)
        until(lambda: not big._server.server_state.connections, what="the connection is ended")


def test_a_client_that_takes_its_time_is_waited_for():
    class Transport:
        unsent, aborted = 0, False

        def get_write_buffer_size(self):
            return self.unsent

        def abort(self):
            self.aborted = True

    protocol = object.__new__(Protocol)
    protocol.transport = transport = Transport()
    for now, unsent in ((0, 0), (100, 30), (159, 30), (160, 20), (219, 20), (220, 10), (221, 90), (279, 90)):
        transport.unsent = unsent
        protocol.end_if_deaf(now)
        assert not transport.aborted
    protocol.end_if_deaf(280)
    assert transport.aborted
