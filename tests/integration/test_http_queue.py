"""A route that pushes to a queue: the body is the message, the query says when and how urgently."""

from __future__ import annotations

import httpx
import pytest

from broker.config import load
from broker.errors import ConfigError
from broker.host import Host
from broker.source import find
from tests.conftest import until

TABLES = """
[sources.push]
kind = "http"
route = "POST /push"
listen = "127.0.0.1:0"
queue = "jobs"
[sources.jobs]
kind = "queue"
[[triggers]]
source = "jobs"
function = "f"
"""


@pytest.fixture
def push(project):
    import threading

    project.configure("def handler(event, context): return 1\n", TABLES)
    host = Host(project.config, project.client)
    thread = threading.Thread(target=host.run)
    thread.start()
    server = until(lambda: host._shared.get(("http", "127.0.0.1", 0)))
    until(lambda: server._mounts)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client
    host.stopping.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_body_becomes_a_message_of_the_queue(push, project):
    answer = push.post("/push", content=b'{"sku": 7}', headers={"Idempotency-Key": "order-7"})
    assert answer.status_code == 202
    (id,) = answer.json()["invocations"]
    assert '"id":"order-7","source":"jobs","type":"queue.message"' in project.job(id)["data"]
    assert push.post("/push", content=b"{}", headers={"Idempotency-Key": "order-7"}).json()["duplicate"]


def test_an_event_longer_than_the_broker_takes_is_refused(push, project):
    answer = push.post("/push", json="x" * ((1 << 20) - 100))  # no longer than max_body, but the event is
    assert answer.status_code == 413
    assert "the limit is 1MB (max_event)" in answer.json()["message"]
    assert project.client.keys("rq:job:*") == []


def test_the_query_says_when_and_how_urgently(push, project):
    (later,) = push.post("/push?delay=5m", content=b"1").json()["invocations"]
    (urgent,) = push.post("/push?priority=high", content=b"1").json()["invocations"]
    assert project.job(later)["status"] == "scheduled"
    assert project.job(urgent)["origin"] == "f.high"


@pytest.mark.parametrize(
    ("url", "body", "says"),
    [
        ("/push", b"{", "JSON"),
        ("/push", b"[NaN]", "NaN"),
        ("/push", b"\xff", "JSON"),
        ("/push", b"[" * 100_000, "JSON"),
        ("/push?delay=soon", b"1", "delay"),
        ("/push?priority=1", b"1", "priority"),
        ("/push?dealy=5m", b"1", "dealy"),
    ],
)
def test_what_is_no_message_is_refused_with_the_reason(push, project, url, body, says):
    answer = push.post(url, content=body)
    assert answer.status_code == 400
    assert says in answer.json()["message"]
    assert project.client.llen("rq:queue:f") == 0


def test_a_queue_that_is_not_there_is_a_mistake_in_the_configuration(project):
    project.configure("def handler(event, context): return 1\n", TABLES.replace('queue = "jobs"', 'queue = "job"'))
    with pytest.raises(ConfigError, match=r"sources\.push\.queue: 'job' is no source of kind = \"queue\".*jobs"):
        load(project.root / "config.toml")


def test_the_kind_says_which_queue_it_feeds(project):
    assert find("http", project.root)(route="POST /x", queue="jobs").feeds() == ["jobs"]
