"""`payload = "aws"` end to end: handlers written with AWS' own library run unchanged behind each source."""

from __future__ import annotations

import json
import signal

import httpx
import pytest

from broker.event import new_event
from tests.acceptance.running import free_port
from tests.conftest import until
from tests.integration.command import started

BATCH = """
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
processor = BatchProcessor(event_type=EventType.SQS)
def handle(record):
    print("handles", record.body, record.attributes.approximate_receive_count)
    if record.body == "bad" and record.attributes.approximate_receive_count == "1":
        raise ValueError("bad")
def handler(event, context):
    return process_partial_response(event=event, record_handler=handle, processor=processor, context=context)
"""

HANDLERS = """
from pathlib import Path
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.shared.cookies import Cookie
from aws_lambda_powertools.utilities.data_classes import EventBridgeEvent, S3Event, event_source
from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.parser.models import EventBridgeModel

@event_source(data_class=S3Event)
def stored(event, context):
    path = event.record["s3"]["object"]["path"]
    return [event.bucket_name, event.object_key, Path(path).read_text()]

@event_parser(model=EventBridgeModel)
def due(event, context):
    return [event.detail_type, event.resources, event.time.isoformat()]

app = APIGatewayHttpResolver()

@app.post("/orders/<number>")
def order(number):
    body = {"number": number, "sku": app.current_event.json_body["sku"]}
    return Response(201, "application/json", __import__("json").dumps(body), cookies=[Cookie(name="a", value="b")])

@app.get("/picture")
def picture():
    return Response(200, "image/png", b"\\x89PNG\\0")

def web(event, context):
    return app.resolve(event, context)
"""

TABLES = """
[sources.orders]
kind = "queue"
[sources.inbox]
kind = "file"
path = "inbox"
[sources.often]
kind = "schedule"
every = "1s"
[sources.shop]
kind = "http"
route = "POST /orders/{number}"
listen = "127.0.0.1:PORT"
reply = "wait"
[sources.pictures]
kind = "http"
route = "GET /picture"
listen = "127.0.0.1:PORT"
reply = "wait"

[functions.stored]
handler = "aws.py:stored"
payload = "aws"
[functions.due]
handler = "aws.py:due"
payload = "aws"
[functions.web]
handler = "aws.py:web"
payload = "aws"

[[triggers]]
source = "orders"
function = "f"
[[triggers]]
source = "inbox"
function = "stored"
[[triggers]]
source = "often"
function = "due"
[[triggers]]
source = "shop"
function = "web"
[[triggers]]
source = "pictures"
function = "web"
"""


def results(project, function):
    ids = project.client.zrange(f"rq:finished:{function}", 0, -1)
    return [project.result(id.decode()) for id in ids]


@pytest.fixture
def serving(project):
    """Host and worker with a source of each kind; the address of the HTTP ones."""
    port = free_port()
    (project.root / "inbox").mkdir()
    (project.root / "aws.py").write_text(HANDLERS)
    project.configure(BATCH, TABLES.replace("PORT", str(port)), payload="aws", batch={"size": 3, "window": "200ms"})
    project.worker()
    host = started(project.root, "host")
    yield f"http://127.0.0.1:{port}"
    host.send_signal(signal.SIGTERM)
    host.communicate(timeout=60)


def test_each_source_speaks_as_its_counterpart_at_aws(project, serving):
    (project.root / "inbox/a b.csv").write_text("1,2\n")
    project.client.rpush("broker:queue:orders", '{"n": 1}')

    def served():
        try:
            return httpx.post(f"{serving}/orders/7", json={"sku": "x"})
        except httpx.TransportError:
            return None

    answer = until(served, within=30)
    assert (answer.status_code, answer.json()) == (201, {"number": "7", "sku": "x"})
    assert answer.headers.get_list("set-cookie") == ["a=b; Secure"]
    picture = httpx.get(f"{serving}/picture")
    assert (picture.headers["content-type"], picture.content) == ("image/png", b"\x89PNG\0")
    until(lambda: results(project, "stored") and results(project, "due") and results(project, "f"), within=30)
    assert results(project, "stored") == [["inbox", "a b.csv", "1,2\n"]]
    kind, resources, time = results(project, "due")[0]
    assert (kind, resources) == ("Scheduled Event", ["arn:aws:events:local:000000000000:rule/often"])
    assert time.endswith("+00:00")
    assert results(project, "f") == [{"batchItemFailures": []}]
    assert 'handles {"n":1} 1' in project.lines()


def test_the_batch_processor_fails_single_messages_and_they_alone_come_back(project):
    project.configure(
        BATCH,
        '[sources.orders]\nkind = "queue"\n[[triggers]]\nsource = "orders"\nfunction = "f"\n',
        payload="aws",
        batch={"size": 3, "window": "500ms"},
        retry={"attempts": 2, "backoff": "fixed", "base": "10ms"},
    )
    events = [new_event(source="orders", type="queue.message", data=data) for data in ("good", "bad", "also good")]
    receipts = project.publisher.publish(events)
    project.worker()
    first, bad, third = (project.ends(receipt.invocations[0]) for receipt in receipts)
    assert [one["attempt"] for one in (first, bad, third)] == ["1", "2", "1"]
    assert bad["reason"] == "BatchItemFailure"
    assert sorted(line for line in project.lines() if line.startswith("handles")) == [
        "handles also good 1", "handles bad 1", "handles bad 2", "handles good 1",
    ]  # fmt: skip


def test_a_message_alone_can_be_failed_by_its_id_too(project):
    code = """
    from aws_lambda_powertools import Logger
    logger = Logger(service="shop")
    @logger.inject_lambda_context
    def handler(event, context):
        (record,) = event["Records"]
        logger.info("received")
        return {"batchItemFailures": [{"itemIdentifier": record["messageId"]}] if context.attempt == 1 else []}
    """
    tables = '[sources.orders]\nkind = "queue"\n[[triggers]]\nsource = "orders"\nfunction = "f"\n'
    project.configure(code, tables, payload="aws", retry={"attempts": 2, "backoff": "fixed", "base": "10ms"})
    (receipt,) = project.publisher.publish([new_event(source="orders", type="queue.message", data=1)])
    project.worker()
    (id,) = receipt.invocations
    assert project.ends(id)["attempt"] == "2"
    said, _ = (json.loads(line) for line in project.lines(id) if line.startswith("{"))
    assert (said["message"], said["function_request_id"]) == ("received", id)
    assert said["function_arn"] == "arn:aws:lambda:local:000000000000:function:f"
    assert said["xray_trace_id"] == f"1-{id[:8]}-{id[8:]}"


def divide(project, **options):
    """A source of which AWS would have sent a quotient, and of 0 nothing can be said."""
    project.configure("def handler(event, context): return event\n", payload="aws", **options)
    (project.root / "quiet.py").write_text(
        "from broker.source import Source\n"
        "class Quiet(Source):\n"
        "    def aws(self, event, attempt):\n"
        "        return {'n': 1 / event['data']}\n"
    )


def test_of_a_batch_only_the_event_is_buried_of_which_nobody_can_say_what_aws_would_send(project):
    divide(project, batch={"size": 4, "window": "1m"})
    first, bad, second, third = project.push(1, 0, 2, 4)
    project.worker()
    assert project.ends(bad, "failed")["reason"] == "PayloadFailed"
    for id in (first, second, third):
        project.ends(id)
    assert project.result(first) == [{"n": 1.0}, {"n": 0.5}, {"n": 0.25}]  # the others are a batch all the same
    assert any("ZeroDivisionError" in line for line in project.lines(bad))


def test_a_batch_of_which_nothing_can_be_handed_over_is_buried(project):
    divide(project, batch={"size": 2, "window": "1m"})
    ids = project.push(0, 0)
    project.worker()
    for id in ids:
        assert project.ends(id, "failed")["reason"] == "PayloadFailed"


def test_a_source_that_cannot_say_what_aws_would_send_buries_its_event_and_harms_nobody(project):
    divide(project)
    project.worker()
    bad, good = project.push(0, 2)
    assert project.ends(bad, "failed")["reason"] == "PayloadFailed"
    project.ends(good)
    assert project.result(good) == {"n": 0.5}
    assert any("ZeroDivisionError" in line for line in project.lines(bad))
