"""The HTTP source over real sockets: requests become events, events become answers."""

from __future__ import annotations

import base64
import json
import logging
import threading
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import redis

from broker.errors import QueueFull, SourceError, StoreUnavailable
from broker.event import invocation_id
from broker.quantity import Duration, Size
from sources.http import Http
from tests.conftest import until
from tests.source_context import RealContext, running


@pytest.fixture(scope="module")
def server(redis_server, tmp_path_factory):
    """What the contexts share: a server that some other source keeps running, as that spares its start and end."""
    redis_client = redis.Redis.from_url(redis_server.url)
    anchor = RealContext(redis_client, tmp_path_factory.mktemp("root"), name="anchor")
    with running(Http(route="GET /anchor", listen="127.0.0.1:0"), anchor):
        yield anchor
    redis_client.close()


@pytest.fixture
def context(server, redis_client, tmp_path):
    context = RealContext(redis_client, tmp_path, name="hooks")
    context._shared, context._lock = server._shared, server._lock
    return context


@pytest.fixture
def alone(redis_client, tmp_path):
    """The context of a source that has a server for itself."""
    return RealContext(redis_client, tmp_path, name="hooks")


@pytest.fixture(scope="module")
def client():
    with httpx.Client(timeout=10, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        yield client


def beside(context, name):
    """Return the context of another source of the same host."""
    other = RealContext(context.redis, context.root, name=name)
    other._shared, other._lock = context._shared, context._lock
    return other


@contextmanager
def serving(context, **options):
    """Run a source on a free port; give the address."""
    with running(Http(**{"route": "POST /hook", "listen": "127.0.0.1:0"} | options), context):
        yield address(context)


def address(context):
    server = until(lambda: context._shared.get(("http", "127.0.0.1", 0)), what="the source asks for a server")
    until(lambda: context.name in [mount.endpoint.name for mount in server._mounts], what="its route is served")
    return f"http://127.0.0.1:{server.port}"


def answering(context, *bodies, ok=True):
    """Let a thread answer the next published events, as a worker would."""

    def answer():
        for number, body in enumerate(bodies):
            event, _ = until(lambda number=number: context.published[number : number + 1], within=10)[0]
            context.answer(invocation_id("test", event), json.dumps(body).encode(), ok=ok)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    return thread


def test_a_request_is_answered_when_its_event_is_in_redis(context, client):
    with serving(context, route="POST /hooks/{service}/{rest:path}") as base:
        answer = client.post(
            f"{base}/hooks/git%20hub/a/b?x=1&y=2&y=3&z=", json={"n": 1}, headers={"X-Twice": "ä".encode()}
        )
    assert answer.status_code == 202
    [record] = context.records()
    assert answer.json() == {"id": record["id"], "invocations": [invocation_id("test", context.published[0][0])]}
    assert (record["type"], record["source"], record["subject"]) == ("http.request", "hooks", "/hooks/git hub/a/b")
    data = record["data"]
    assert data["method"] == "POST" and data["path"] == "/hooks/git hub/a/b"
    assert data["route"] == "/hooks/{service}/{rest:path}"
    assert data["parameters"] == {"service": "git hub", "rest": "a/b"}
    assert data["query"] == {"x": "1", "y": ["2", "3"], "z": ""}
    assert data["headers"]["content-type"] == "application/json"
    assert data["body"] == {"n": 1} and data["client"] == "127.0.0.1"
    assert "server" not in answer.headers


def test_the_same_idempotency_key_is_one_event(context, client):
    with serving(context) as base:
        first, second = (client.post(f"{base}/hook", headers={"Idempotency-Key": key}) for key in ("k-1", '"k-1"'))
    assert (first.status_code, second.status_code) == (202, 202)
    assert "duplicate" not in first.json() and second.json() == first.json() | {"duplicate": True}
    assert [record["id"] for record in context.records()] == ["k-1"]


def test_a_key_that_is_too_long_is_refused(context, client):
    with serving(context) as base:
        assert client.post(f"{base}/hook", headers={"Idempotency-Key": "k" * 256}).status_code == 400


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json", b'{"a": [1]}', {"body": {"a": [1]}}),
        ("application/vnd.x+json; charset=utf-8", b"null", {"body": None}),
        ("application/x-www-form-urlencoded", b"a=1&b=%20", {"body": "a=1&b=%20"}),
        ("text/plain; charset=iso-8859-1", "ä".encode("latin-1"), {"body": "ä"}),
        ("text/plain; charset=punycode", b"abc", {"body_base64": "YWJj"}),
        ("text/plain", b"\xff", {"body_base64": "/w=="}),
        ("application/octet-stream", b"abc", {"body_base64": "YWJj"}),
        (None, "grüß".encode(), {"body": "grüß"}),
        (None, b"", {"body": None}),
    ],
)
def test_a_body_is_kept_as_what_its_type_says(context, client, content_type, body, expected):
    with serving(context) as base:
        headers = {"content-type": content_type} if content_type else {}
        assert client.post(f"{base}/hook", content=body, headers=headers).status_code == 202
    data = context.records()[0]["data"]
    assert {name: value for name, value in data.items() if name.startswith("body")} == expected


def test_a_compressed_body_is_kept_as_it_came(context, client):
    with serving(context) as base:
        client.post(
            f"{base}/hook", content=b"\x1f\x8b", headers={"content-encoding": "gzip", "content-type": "text/plain"}
        )
    assert context.records()[0]["data"]["body_base64"] == "H4s="


def test_raw_keeps_the_body_to_the_byte(context, client):
    with serving(context, raw=True) as base:
        client.post(f"{base}/hook", content=b'{ "a":1 }', headers={"content-type": "application/json"})
        client.post(f"{base}/hook", content=b"\xff")
    text, binary = (record["data"] for record in context.records())
    assert (text["body"], text["raw"]) == ({"a": 1}, '{ "a":1 }')
    assert binary["raw_base64"] == "/w=="


@pytest.mark.parametrize("body", [b"{", b"\xff", b"NaN", b"1e999", b"[" * 50_000])
def test_json_that_is_none_is_refused(context, client, body):
    with serving(context) as base:
        answer = client.post(f"{base}/hook", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "JSON" in answer.json()["message"]
    assert context.count() == 0


def test_secrets_in_headers_do_not_get_into_the_event(context, client):
    secrets = {"Authorization": "Bearer s3cret", "Cookie": "session=s3cret", "X-Hub-Signature-256": "sha256=s3cret"}
    with serving(context) as base:
        client.post(f"{base}/hook", headers=secrets)
    [record] = context.records()
    assert "s3cret" not in json.dumps(record)
    assert sorted(record["data"]["headers_dropped"]) == ["authorization", "cookie", "x-hub-signature-256"]


def test_a_header_named_in_keep_headers_stays(context, client):
    with serving(context, keep_headers=("Cookie",)) as base:
        client.post(f"{base}/hook", headers={"Cookie": "a=1", "Authorization": "x"})
    data = context.records()[0]["data"]
    assert data["headers"]["cookie"] == "a=1" and data["headers_dropped"] == ["authorization"]


def test_an_event_that_concerns_no_function_is_accepted(context, client):
    context.matching = False
    with serving(context) as base:
        answer = client.post(f"{base}/hook")
    assert answer.status_code == 202 and answer.json()["invocations"] == []


@pytest.mark.parametrize(("error", "status"), [(QueueFull("f", 10), 429), (StoreUnavailable(), 503)])
@pytest.mark.parametrize("reply", ["accept", "wait"])
def test_what_could_not_be_stored_is_never_called_accepted(context, client, error, status, reply):
    context.fail(error)
    with serving(context, reply=reply) as base:
        answer = client.post(f"{base}/hook")
        assert answer.status_code == status and int(answer.headers["retry-after"]) > 0
        context.fail(None)
        if reply == "accept":
            assert client.post(f"{base}/hook").status_code == 202


def test_a_store_that_does_not_answer_gets_no_202(context, client, monkeypatch):
    monkeypatch.setattr("sources.http.ACCEPT_WITHIN", 0.1)
    monkeypatch.setattr(context, "submit_then", lambda event, how, then: None)
    with serving(context) as base:
        assert client.post(f"{base}/hook").status_code == 503


# Routing


def test_paths_and_methods_that_are_not_served_are_told_so(context, client):
    with serving(context, route="GET,PUT /things/{id:int}") as base:
        assert client.get(f"{base}/things/5").status_code == 202
        assert client.get(f"{base}/things/five").status_code == 404
        assert client.get(f"{base}/").status_code == 404
        answer = client.delete(f"{base}/things/5")
        assert answer.status_code == 405 and answer.headers["allow"] == "GET, PUT"
    assert context.records()[0]["data"]["parameters"] == {"id": 5}


def test_sources_on_one_address_share_a_server_and_the_last_one_ends_it(alone, client):
    other = beside(alone, "other")
    with serving(alone, route="POST /a") as base:
        with serving(other, route="ANY /a/{x}") as same:
            assert same == base
            assert client.post(f"{base}/a").status_code == 202
            assert client.patch(f"{base}/a/1").status_code == 202
        assert client.patch(f"{base}/a/1").status_code == 404
        assert client.post(f"{base}/a").status_code == 202
    assert [record["source"] for record in alone.records()] == ["hooks", "other", "hooks"]
    with pytest.raises(httpx.ConnectError):
        client.post(f"{base}/a")


def test_a_request_that_comes_before_its_source_waits_for_it(alone, client, monkeypatch):
    monkeypatch.setattr("sources._http.server.SETTLING", 30)
    other = beside(alone, "other")
    Http(route="POST /b", listen="127.0.0.1:0").prepare(other)
    with serving(alone, route="ANY /{all:path}") as base:
        early = threading.Thread(target=lambda: answers.append(client.post(f"{base}/b").status_code))
        answers = []
        early.start()
        assert client.post(f"{base}/a").status_code == 202
        with serving(other, route="POST /b"):
            early.join(10)
    assert answers == [202]  # a 404 would be taken for final
    assert sorted(record["source"] for record in alone.records()) == ["hooks", "other"]  # nor is it another's


def test_a_request_for_a_source_that_does_not_run_is_refused_for_now(alone, client, monkeypatch):
    monkeypatch.setattr("sources._http.server.SETTLING", 0)
    Http(route="POST /b", listen="127.0.0.1:0").prepare(alone)
    with serving(alone, route="POST /a") as base:
        for name in ("first", "again"):
            answer = client.post(f"{base}/b")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert client.get(f"{base}/b").status_code == 405
            assert client.post(f"{base}/c").status_code == 404
            with serving(beside(alone, name), route="POST /b"):
                assert client.post(f"{base}/b").status_code == 202


def test_a_source_that_stopped_can_start_again(alone, client):
    for _ in range(2):
        with serving(alone) as base:
            assert client.post(f"{base}/hook").status_code == 202


def test_what_is_written_out_wins_over_a_parameter_whoever_came_first(context, client):
    with ExitStack() as stack:
        for name, route in (("all", "ANY /{rest:path}"), ("one", "POST /a/{x}"), ("exact", "POST /a/b")):
            base = stack.enter_context(serving(beside(context, name), route=route))
        for path in ("a/b", "a/c", "z"):
            client.post(f"{base}/{path}")
    assert [record["source"] for record in context.records()] == ["exact", "one", "all"]


def test_the_same_route_twice_is_a_mistake(context):
    taken = r"POST /a/\{str\} is already served by the source 'hooks'"
    with serving(context, route="GET,POST /a/{x}"), pytest.raises(SourceError, match=taken):
        Http(route="POST /a/{y}", listen="127.0.0.1:0").run(beside(context, "other"))
    assert Http(route="ANY /a/{x}").claims(context.root)[0] == "GET http://127.0.0.1:8000/a/{str}"
    one, two = (Http(route=route).claims(context.root) for route in ("GET,POST /a/{x}", "POST /a/{y}"))
    assert set(one) & set(two)


def test_an_address_that_is_taken_is_named_with_what_to_do(context):
    with serving(context) as base:
        listen = base.removeprefix("http://")
        with pytest.raises(SourceError, match=rf"cannot listen on {listen}: another program.*listen = "):
            Http(route="POST /x", listen=listen).run(RealContext(context.redis, context.root, name="late"))


# Waiting for the result


def test_the_result_of_a_function_is_the_answer(context, client):
    with serving(context, reply="wait") as base:
        answering(context, {"sum": 3})
        answer = client.post(f"{base}/hook", json=[1, 2])
    assert (answer.status_code, answer.json()) == (200, {"sum": 3})
    assert answer.headers["content-type"] == "application/json"
    assert context.published[0][1].reply


def test_a_proxy_result_is_that_response(context, client):
    result = {
        "statusCode": 201,
        "headers": {"Content-Type": "text/html", "X-N": 5, "Connection": "close", "Content-Length": "999"},
        "multiValueHeaders": {"x-m": ["1", "2"]},
        "cookies": ["a=1", "b=2"],
        "body": "<b>ü</b>",
    }
    with serving(context, reply="wait") as base:
        answering(context, result)
        answer = client.post(f"{base}/hook")
    assert (answer.status_code, answer.text) == (201, "<b>ü</b>")
    assert answer.headers["content-type"] == "text/html" and answer.headers["x-n"] == "5"
    assert answer.headers.get_list("x-m") == ["1", "2"]
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert answer.headers["content-length"] == "9" and "connection" not in answer.headers


def test_a_binary_result_arrives_to_the_byte(context, client):
    body = base64.b64encode(bytes(range(256))).decode()
    with serving(context, reply="wait") as base:
        answering(context, {"statusCode": 200, "body": body, "isBase64Encoded": True})
        assert client.post(f"{base}/hook").content == bytes(range(256))


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(context, client, status):
    with serving(context, reply="wait") as base:
        answering(context, {"statusCode": status, "body": "ignored"}, {"statusCode": 200, "body": "next"})
        answer = client.post(f"{base}/hook")
        assert (answer.status_code, answer.content) == (status, b"") and "content-length" not in answer.headers
        assert client.post(f"{base}/hook").text == "next"


def test_head_asks_a_get_route_and_gets_no_body(context, client):
    with serving(context, route="GET /page", reply="wait") as base:
        answering(context, {"statusCode": 200, "body": "hello"})
        answer = client.head(f"{base}/page")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "5")
    assert context.records()[0]["data"]["method"] == "HEAD"


def test_an_error_of_the_function_is_a_502_that_tells_nothing(context, client):
    with serving(context, reply="wait") as base:
        answering(context, {"errorType": "KeyError", "errorMessage": "s3cret", "stackTrace": ["s3cret"]}, ok=False)
        answer = client.post(f"{base}/hook", headers={"Idempotency-Key": "k"})
    assert answer.status_code == 502
    assert answer.json() == {"id": "k", "message": "Internal Server Error"}


@pytest.mark.parametrize(
    "result",
    [
        {"statusCode": "ok"},
        {"statusCode": 100},
        {"statusCode": True},
        {"statusCode": 200, "body": {"a": 1}},
        {"statusCode": 200, "body": "?", "isBase64Encoded": True},
        {"statusCode": 200, "headers": {"x": "a\r\nset-cookie: evil=1"}},
        {"statusCode": 200, "headers": {"x y": "a"}},
        {"statusCode": 200, "headers": []},
        {"statusCode": 200, "cookies": "a=1"},
        {"statusCode": 200, "cookies": [{}]},
    ],
)
def test_a_result_that_is_no_response_is_a_502_and_logged(context, client, caplog, result):
    with serving(context, reply="wait") as base, caplog.at_level(logging.WARNING):
        answering(context, result)
        answer = client.post(f"{base}/hook")
    assert answer.status_code == 502 and answer.json()["message"] == "Internal Server Error"
    assert "is no HTTP response" in caplog.text


def test_a_function_that_takes_too_long_is_a_504(context, client):
    with serving(context, reply="wait", timeout=Duration(0.05)) as base:
        answer = client.post(f"{base}/hook", headers={"Idempotency-Key": "k"})
    assert answer.status_code == 504 and answer.json()["id"] == "k" and answer.json()["invocations"]
    assert "50ms" in answer.json()["message"]


def test_no_function_to_wait_for_is_a_404(context, client):
    context.matching = False
    with serving(context, reply="wait") as base:
        assert client.post(f"{base}/hook").status_code == 404


def test_a_result_goes_to_the_first_who_asked_and_the_second_is_told(context, client):
    with serving(context, reply="wait") as base:
        answering(context, "first")
        answers = [client.post(f"{base}/hook", headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 409]
    assert answers[1].json()["duplicate"] and answers[1].json()["id"] == "k"


def test_many_wait_at_once_and_each_gets_its_own_result(context, client):
    def ask(number):
        answers[number] = client.post(f"{base}/hook", json=number).json()

    answers = {}
    with serving(context, reply="wait") as base:
        threads = [threading.Thread(target=ask, args=[number]) for number in range(20)]
        for thread in threads:
            thread.start()
        until(lambda: len(context.published) == 20)
        for event, _ in reversed(context.published):
            context.answer(invocation_id("test", event), json.dumps(event.data["body"] * 2).encode())
        for thread in threads:
            thread.join(10)
    assert answers == {number: number * 2 for number in range(20)}


# Stopping


def test_who_waits_is_told_when_the_broker_stops(alone, client):
    answers = []

    def ask():
        answers.append(client.post(f"{base}/hook"))

    with running(Http(route="POST /hook", listen="127.0.0.1:0", reply="wait"), alone):
        base = address(alone)
        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: alone.published)
    thread.join(30)
    assert answers[0].status_code == 503 and "retry-after" in answers[0].headers


def test_a_request_in_progress_is_finished_and_new_ones_are_refused_when_the_source_ends(context, client, monkeypatch):
    receipts = []
    submit = context.submit_then

    def slow_submit(event, how, then):
        if receipts:
            submit(event, how, then)
        else:
            receipts.append((event, how, then))

    def ask():
        answers.append(client.post(f"{base}/hook").status_code)

    monkeypatch.setattr(context, "submit_then", slow_submit)
    monkeypatch.setattr("sources._http.server.DRAIN", 10)
    answers = []
    with running(Http(route="POST /hook", listen="127.0.0.1:0"), context):
        base = address(context)
        thread = threading.Thread(target=ask)
        thread.start()
        held = until(lambda: receipts)[0]
        context.stopping.set()
        refused = until(lambda: (answer := client.post(f"{base}/hook")).status_code == 503 and answer)
        assert refused.headers["connection"] == "close"
        submit(*held)
        thread.join(30)
    assert answers == [202]


def test_a_defect_of_ours_is_a_500_that_tells_nothing_and_a_traceback_in_the_log(context, client, monkeypatch, caplog):
    def broken(event, how, then):
        raise ZeroDivisionError("s3cret")

    monkeypatch.setattr(context, "submit_then", broken)
    with serving(context) as base:
        answer = client.post(f"{base}/hook")
    assert answer.status_code == 500 and "s3cret" not in answer.text
    assert "ZeroDivisionError" in caplog.text


def test_requests_are_logged_only_when_asked_for(context, client, caplog):
    with caplog.at_level(logging.INFO):
        with serving(context) as base:
            client.post(f"{base}/hook")
        assert "/hook' 202" not in caplog.text
        with serving(context, access_log=True, max_body=Size(1)) as base:
            client.post(f"{base}/hook", content=b"x")
            client.post(f"{base}/hook", content=b"xx")
        assert "127.0.0.1 POST '/hook' 202" in caplog.text
        assert "127.0.0.1 POST '/hook' 413" in caplog.text
