"""The HTTP source and who sends to it: tokens, signed webhooks, CloudEvents, and web pages from elsewhere."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import httpx
import pytest
import redis
from standardwebhooks import Webhook

from broker import config
from broker.errors import ConfigError, SourceError
from broker.event import invocation_id
from broker.quantity import Duration
from sources._http.auth import Auth
from sources.http import Http
from tests.conftest import until
from tests.source_context import RealContext, running

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VECTORS = [
    json.loads(line) for line in (Path(__file__).parents[1] / "data/cloudevents/http.jsonl").read_text().splitlines()
]


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
def serve(context):
    """Run one source for the test; give a function that posts to it."""
    stack = []

    def start(**options):
        source = running(Http(**{"route": "POST /hook", "listen": "127.0.0.1:0"} | options), context)
        source.__enter__()
        stack.append(source)
        server = context._shared["http", "127.0.0.1", 0]
        until(lambda: context.name in [mount.endpoint.name for mount in server._mounts], what="its route is served")
        client = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", verify=False, trust_env=False, timeout=10)
        stack.append(client)
        return lambda **request: client.post("/hook", **request)

    yield start
    for each in reversed(stack):
        each.__exit__(None, None, None)


def signed(secret, body, ident="msg_1", moment=None):
    moment = moment or datetime.now(UTC)
    return {
        "webhook-id": ident,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(ident, moment, body),
    }


def github(secret, body, **headers):
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()} | headers


def slack(secret, body):
    now = str(int(time.time()))
    digest = hmac.new(secret, f"v0:{now}:".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Slack-Request-Timestamp": now, "X-Slack-Signature": f"v0={digest}"}


# Tokens


def test_only_who_has_one_of_the_tokens_comes_in(context, serve):
    post = serve(auth=Auth(bearer=["old-t0ken", "new-t0ken"]))
    for token in ("Bearer old-t0ken", "bearer new-t0ken"):
        assert post(headers={"Authorization": token}).status_code == 202
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic old-t0ken"},
        {"Authorization": "Bearer"},
    ):
        answer = post(headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert "t0ken" not in answer.text
    assert context.count() == 2
    assert "t0ken" not in json.dumps(context.records())


# Signatures


def test_a_signed_webhook_is_taken_once_by_its_senders_id(context, serve):
    post = serve(auth=Auth(signature="standard-webhooks", secret=SECRET))
    body = '{"type": "user.created"}'
    first = post(content=body, headers=signed(SECRET, body) | {"Content-Type": "application/json"})
    again = post(content=body, headers=signed(SECRET, body) | {"Idempotency-Key": "of-a-replayer"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == "msg_1" and again.json()["duplicate"]
    [record] = context.records()
    assert record["data"]["body"] == {"type": "user.created"}
    assert "webhook-signature" not in record["data"]["headers"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"webhook-id": ""}, "webhook-id is missing"),
        ({"webhook-signature": "v1,AAAA"}, "does not match"),
        ({"webhook-timestamp": "1614265330"}, "too old"),
    ],
)
def test_a_webhook_that_is_not_signed_right_is_refused_with_the_reason(context, serve, change, says):
    post = serve(auth=Auth(signature="standard-webhooks", secret=SECRET))
    answer = post(content="{}", headers=signed(SECRET, "{}") | change)
    assert answer.status_code == 401 and says in answer.json()["message"]
    assert SECRET not in answer.text and signed(SECRET, "{}")["webhook-signature"] not in answer.text
    assert context.count() == 0


def test_a_body_that_was_changed_on_the_way_is_refused(context, serve):
    post = serve(auth=Auth(signature="github", secret="s"))
    assert post(content=b"[1]", headers=github(b"s", b"[2]")).status_code == 401


def test_tolerance_is_how_old_a_signature_may_be(context, serve):
    post = serve(auth=Auth(signature="standard-webhooks", secret=SECRET, tolerance=Duration(3600)))
    old = datetime.fromtimestamp(time.time() - 1800, UTC)
    assert post(content="{}", headers=signed(SECRET, "{}", moment=old)).status_code == 202


def test_githubs_ping_is_answered_and_its_deliveries_are_events(context, serve):
    post = serve(auth=Auth(signature="github", secret=["old", "new"]))
    body = b'{"zen": "..."}'
    ping = post(content=body, headers=github(b"new", body, **{"X-GitHub-Event": "ping", "X-GitHub-Delivery": "d-0"}))
    push = post(content=body, headers=github(b"old", body, **{"X-GitHub-Event": "push", "X-GitHub-Delivery": "d-1"}))
    assert (ping.status_code, push.status_code) == (200, 202)
    assert [record["id"] for record in context.records()] == ["d-1"]


def test_slacks_challenge_is_given_back_only_when_it_is_signed(context, serve):
    post = serve(auth=Auth(signature="slack", secret="s"))
    body = b'{"type": "url_verification", "challenge": "3eZb"}'
    json_type = {"Content-Type": "application/json"}
    assert post(content=body, headers=json_type).status_code == 401
    answer = post(content=body, headers=slack(b"s", body) | json_type)
    assert (answer.status_code, answer.json()) == (200, {"challenge": "3eZb"})
    event = b'{"type": "event_callback", "event_id": "Ev1"}'
    assert post(content=event, headers=slack(b"s", event) | json_type).json()["id"] == "Ev1"
    assert [record["id"] for record in context.records()] == ["Ev1"]


def test_stripes_event_id_is_the_id(context, serve):
    post = serve(auth=Auth(signature="stripe", secret="whsec_x"))
    body, now = b'{"id": "evt_1"}', int(time.time())
    digest = hmac.new(b"whsec_x", f"{now}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"Stripe-Signature": f"t={now},v1={digest}", "Content-Type": "application/json"}
    assert post(content=body, headers=headers).json()["id"] == "evt_1"


# Web pages from elsewhere


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "rebound.evil.example:8000"},
        {"Host": "[::1"},
    ],
)
def test_a_web_page_elsewhere_cannot_make_a_browser_run_functions(context, serve, headers):
    answer = serve()(headers=headers)
    assert answer.status_code == 403 and "insecure" in answer.json()["message"]
    assert context.count() == 0


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "app.localhost"])
def test_a_page_of_this_very_address_may(context, serve, host):
    post = serve()
    assert post(headers={"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}).status_code == 202


@pytest.mark.parametrize("options", [{"insecure": True}, {"auth": Auth(bearer="t")}])
def test_behind_a_proxy_any_name_will_do(context, serve, options):
    headers = {"Host": "hooks.example.com", "Origin": "https://app.example.com", "Authorization": "Bearer t"}
    assert serve(**options)(headers=headers).status_code == 202


# CloudEvents


def test_a_cloudevent_becomes_that_event(context, serve):
    post = serve()
    for vector in VECTORS:
        context.redis.flushall()  # as most have the same id
        answer = post(content=vector["body"].encode(), headers=vector["headers"])
        if not vector["accept"]:
            assert answer.status_code == 400 and answer.json()["message"], vector["id"]
            assert context.count() == 0
            continue
        assert answer.status_code == 202, vector["id"]
        records = context.records()
        if "batch" in vector["id"]:
            assert [one["id"] for one in answer.json()["events"]] == [record["id"] for record in records]
            continue
        [record] = records
        expected = {name: value for name, value in (vector["attributes"] or {}).items() if name not in ("id", "source")}
        expected |= {"source": "hooks", "id": "/mycontext/subcontext|1234-1234-1234"}
        expected |= {"type": "com.example.someevent", "cesource": "/mycontext/subcontext", "ceid": "1234-1234-1234"}
        assert {name: record.get(name) for name in expected} == expected, vector["id"]
        if vector["data"] is not None:
            assert record["data"] == vector["data"], vector["id"]


def test_a_cloudevent_sent_twice_is_one_event_and_of_another_sender_another(context, serve):
    post = serve()
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/a", "ce-type": "t"}
    assert "duplicate" not in post(headers=headers).json()
    assert post(headers=headers).json()["duplicate"]
    assert "duplicate" not in post(headers=headers | {"ce-source": "/b"}).json()


def test_a_batch_cannot_be_waited_for(context, serve):
    post = serve(reply="wait")
    answer = post(content="[]", headers={"Content-Type": "application/cloudevents-batch+json"})
    assert answer.status_code == 422


def test_one_cloudevent_can_be_waited_for(context, serve):
    post = serve(reply="wait")
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/a", "ce-type": "t"}

    def answer():
        event, _ = until(lambda: context.published)[0]
        context.answer(invocation_id("test", event), b"[1]")

    thread = Thread(target=answer)
    thread.start()
    assert post(headers=headers).json() == [1]
    thread.join()


# Options


def test_the_plan_says_what_is_served_to_whom(tmp_path):
    signed = Http(route="POST /hooks/{repo}", auth=Auth(signature="github", secret="x"))
    assert signed.plan(tmp_path) == ["POST http://127.0.0.1:8000/hooks/{repo} (github signature, accept)"]
    assert Http(route="ANY /", reply="wait").plan(tmp_path) == ["ANY http://127.0.0.1:8000/ (no auth, wait)"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"route": "/hook"}, "route: expected a method and a path"),
        ({"route": "post /hook"}, "write POST"),
        ({"route": "POST /{a}/{a}"}, "same name"),
        ({"route": "POST /{a:float}"}, "unknown kind"),
        ({"route": "POST /{a}{b}"}, "only one parameter"),
        ({"route": "POST /{a:path}/x/{b:path}"}, "only one parameter can be a path"),
        ({"route": "POST /a?b"}, "cannot stand in a path"),
        ({"listen": "8000"}, "listen: expected HOST:PORT"),
        ({"listen": "127.0.0.1:99999"}, "listen: expected HOST:PORT"),
        ({"listen": "0.0.0.0:8000"}, "insecure = true"),
        ({"listen": "[::]:8000"}, "insecure = true"),
        ({"listen": "hooks.example.com:8000"}, "insecure = true"),
        ({"auth": Auth()}, "either bearer, or signature"),
        ({"auth": Auth(bearer="a", signature="github", secret="b")}, "either bearer, or signature"),
        ({"auth": Auth(bearer="")}, "empty token"),
        ({"auth": Auth(bearer=[])}, "empty token"),
        ({"auth": Auth(bearer=["a", ""])}, "empty token"),
        ({"auth": Auth(bearer="a", secret="b")}, "only a signature needs one"),
        ({"auth": Auth(signature="github")}, "secret is missing"),
        ({"auth": Auth(signature="github", secret="")}, "secret is empty"),
        ({"auth": Auth(signature="github", secret=[])}, "at least one secret"),
        ({"auth": Auth(signature="standard-webhooks", secret="whsec_!")}, "base64"),
    ],
)
def test_options_that_cannot_work_are_mistakes_and_never_run(context, options, says):
    source = Http(**{"route": "POST /hook"} | options)
    assert any(says in problem for problem in source.check(context.root))
    with pytest.raises(SourceError):
        source.run(context)


@pytest.mark.parametrize(
    "options",
    [
        {"listen": "127.0.0.1:8000"},
        {"listen": "localhost:8000"},
        {"listen": "[::1]:8000"},
        {"listen": "0.0.0.0:8000", "insecure": True},
        {"listen": "0.0.0.0:8000", "auth": Auth(bearer="t")},
    ],
)
def test_options_that_work_are_no_mistake(tmp_path, options):
    assert Http(route="POST /hook", **options).check(tmp_path) == []


def test_secrets_are_not_shown_with_the_options():
    source = Http(route="POST /hook", auth=Auth(signature="github", secret="s3cret"))
    assert "s3cret" not in repr(source) and "s3cret" not in repr(Auth(bearer="s3cret"))


def test_the_table_of_the_documentation_is_read_from_config_toml(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(
        """
        [sources.github]
        kind = "http"
        route = "POST /hooks/github/{repo}"
        listen = "127.0.0.1:8000"
        reply = "wait"
        timeout = "10s"
        max_body = "5MB"
        keep_headers = ["cookie"]
        auth = { signature = "github", secret = ["${OLD}", "${NEW}"], tolerance = "1m" }
        """
    )
    source = config.load(path, {"OLD": "a", "NEW": "b"}).sources["github"]
    assert source == Http(
        route="POST /hooks/github/{repo}",
        reply="wait",
        timeout=Duration(10),
        max_body=5 << 20,
        keep_headers=("cookie",),
        auth=Auth(signature="github", secret=["a", "b"], tolerance=Duration(60)),
    )
    path.write_text('[sources.a]\nkind = "http"\nroute = "POST /"\nauth = { bearer = "${T}" }\n')
    with pytest.raises(ConfigError, match="empty token"):
        config.load(path, {"T": ""})
