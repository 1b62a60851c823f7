"""`payload = "aws"`: every event of ours has the shape that AWS would have sent, and AWS' own library reads it."""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from aws_lambda_powertools.utilities.data_classes import (
    APIGatewayProxyEventV2,
    EventBridgeEvent,
    S3Event,
    SQSEvent,
)
from aws_lambda_powertools.utilities.parser import parse
from aws_lambda_powertools.utilities.parser.models import (
    APIGatewayProxyEventV2Model,
    EventBridgeModel,
    S3Model,
    SqsModel,
)
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import EventError
from broker.event import new_event
from broker.payload import compose, eventbridge
from broker.source import Source
from sources._file.event import Fingerprint, file_event
from sources._http.message import Request, data_of, payload_of
from sources._queue.item import Item, read
from sources.file import File
from sources.http import Http
from sources.queue import Queue
from sources.schedule import Schedule

DATA = Path(__file__).parents[1] / "data/aws-events"
NOW = datetime(2026, 11, 23, 9, 23, 42, 123456, UTC)
KINDS = {
    "inbox": File(path="inbox"),
    "jobs": Queue(),
    "nightly": Schedule(cron="0 3 * * *"),
    "web": Http(route="GET,POST /orders/{id:int}/{rest:path}"),
}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.binary(min_size=1, max_size=20).filter(
    lambda name: not set(name) & set(b"/\0") and name not in {b".", b".."}
)
header_values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)


def shaped(*events, attempt=1, batch=False):
    encoded = [(event.encode(), attempt) for event in events]
    return json.loads(compose(encoded, KINDS, batch=batch))


def example(name):
    return json.loads((DATA / f"{name}.json").read_text())


def outline(value):
    """Return the names and the types of a JSON value."""
    if isinstance(value, dict):
        return {name: outline(inner) for name, inner in value.items()}
    return [outline(one) for one in value[:1]] if isinstance(value, list) else type(value).__name__


def file(path="a b/ü.csv", change="created", size=5):
    mark = Fingerprint(1, 2, size, 1_795_425_822_000_000_000, 1_795_425_822_000_000_007)
    return file_event("inbox", "/srv/inbox", path, mark, change, now=NOW)


def message(raw=b'{"n": 1}', **fields):
    pairs = ((b"data", raw), *((name.encode(), value) for name, value in fields.items()))
    return read(Item(place="list", key=b"7", fields=pairs, size=9), "jobs", limit=1 << 20, now=NOW).event


def request(body=b"", query=b"", *, method="POST", path="/orders/7/a/b", raw=False, keep=(), **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = Request(
        method=method, path=path, query=query, headers=headers, client="127.0.0.1", body=None,
        parameters={"id": 7, "rest": "a/b"},
    )  # fmt: skip
    data = data_of(asked, "/orders/{id:int}/{rest:path}", body, payload_of(asked, body), keep=keep, raw=raw)
    return new_event(source="web", type="http.request", subject=path, data=data, id="r1", time=NOW)


def tick():
    data = {"due": "2026-11-24T02:00:00Z", "missed": False}
    return new_event(source="nightly", type="schedule.tick", id="2026-11-24T02:00:00Z", data=data, time=NOW)


# -- files as S3's ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "name"), [("created", "s3Event"), ("deleted", "s3EventDeleteObject")])
def test_a_file_has_the_outline_of_a_real_notification_of_s3_and_its_path(change, name):
    ours = shaped(file(change=change))
    assert ours["Records"][0]["s3"]["object"].pop("path") == "/srv/inbox/a b/ü.csv"
    theirs = example(name)
    assert outline(ours) == outline(theirs)
    for key in ("eventVersion", "eventSource", "eventName"):
        assert ours["Records"][0][key] == theirs["Records"][0][key]


def test_a_file_is_an_object_in_a_bucket_of_the_sources_name():
    event = S3Event(shaped(file(size=52)))
    assert (event.bucket_name, event.object_key) == ("inbox", "a b/ü.csv")
    assert event.record.s3.get_object.size == 52
    assert event.record.event_time == "2026-11-23T09:23:42.000Z"
    assert event.record.s3.get_object.key == "a+b/%C3%BC.csv"


def test_what_happens_later_to_a_file_has_a_greater_sequencer():
    created, deleted = (shaped(file(change=change)) for change in ("created", "deleted"))
    one, other = (shape["Records"][0]["s3"]["object"]["sequencer"] for shape in (created, deleted))
    assert len(one) == len(other)
    assert one < other


@given(
    folder=st.lists(names, max_size=2), name=names, change=st.sampled_from(["created", "modified", "deleted"]),
    size=st.integers(0, 2**63), mtime=st.integers(-(2**63), 2**63 - 1), ctime=st.integers(0, 2**63 - 1),
)  # fmt: skip
def test_s3s_classes_read_every_file_of_ours(*, folder, name, change, size, mtime, ctime):
    path = os.fsdecode(b"/".join([*folder, name]))
    event = file_event("inbox", "/srv", path, Fingerprint(1, 2, size, mtime, ctime), change, now=NOW)
    shape = shaped(event)
    record = parse(event=shape, model=S3Model).Records[0]
    assert record.s3.bucket.name == "inbox"
    assert os.fsdecode(unquote_to_bytes(record.s3.object.key.replace("+", "%20"))) == path


# -- messages as SQS' ------------------------------------------------------------------------------------------------


def test_a_message_has_the_outline_of_a_real_one_of_sqs():
    ours, theirs = shaped(message()), example("sqsEvent")
    theirs["Records"] = theirs["Records"][1:]  # the first one has an attribute
    assert outline(ours) == outline(theirs)


def test_a_message_is_its_body_and_tells_how_often_it_was_received():
    (record,) = SQSEvent(shaped(message(id=b"o-1"), attempt=3)).records
    assert (record.message_id, record.json_body) == ("o-1", {"n": 1})
    assert record.attributes.approximate_receive_count == "3"
    assert record.attributes.sent_timestamp == str(int(NOW.timestamp() * 1000))
    assert record.queue_url.endswith("/jobs")
    assert next(SQSEvent(shaped(message(b'"as it is"'))).records).body == "as it is"


def test_a_cloudevent_in_a_queue_is_a_message_of_its_own_json():
    cloudevent = {"specversion": "1.0", "id": "1", "source": "shop", "type": "order.created", "data": {"sku": 7}}
    body = next(SQSEvent(shaped(message(json.dumps(cloudevent).encode()))).records).json_body
    assert (body["type"], body["data"]) == ("order.created", {"sku": 7})


def test_further_attributes_of_a_message_are_message_attributes():
    event = new_event(source="jobs", type="queue.message", data=1)
    event.extensions.update({"traceparent": "00-ab", "weight": 7, "urgent": True})
    attributes = next(SQSEvent(shaped(event)).records).message_attributes
    assert {name: (attributes[name].string_value, attributes[name].data_type) for name in event.extensions} == {
        "traceparent": ("00-ab", "String"),
        "weight": ("7", "Number"),
        "urgent": ("true", "String"),
    }


@given(values=st.lists(json_values, min_size=1, max_size=4), attempt=st.integers(1, 99))
def test_sqs_classes_read_every_batch_of_ours(values, attempt):
    events = [new_event(source="jobs", type="queue.message", data=value) for value in values]
    model = parse(event=shaped(*events, attempt=attempt, batch=True), model=SqsModel)
    assert [record.messageId for record in model.Records] == [event.id for event in events]
    for record, value in zip(model.Records, values, strict=True):
        assert record.body == value if isinstance(value, str) else json.loads(record.body) == value


# -- ticks as EventBridge's ------------------------------------------------------------------------------------------


def test_a_tick_is_a_scheduled_event_of_eventbridge():
    ours, theirs = shaped(tick()), example("eventBridgeScheduledEvent")
    assert outline(ours) == outline(theirs)
    for key in ("version", "detail-type", "source", "detail"):
        assert ours[key] == theirs[key]
    event = EventBridgeEvent(ours)
    assert event.resources == ["arn:aws:events:local:000000000000:rule/nightly"]
    assert parse(event=ours, model=EventBridgeModel).time == NOW.replace(microsecond=0)


# -- requests as API Gateway's ---------------------------------------------------------------------------------------


def test_a_request_has_the_outline_of_a_real_one_of_api_gateway():
    ours = outline(
        shaped(
            request(
                b"{}", b"a=1", content_type="application/json", cookie="a=b", x="y", host="h", user_agent="curl",
                keep={"cookie"},
            )
        )
    )  # fmt: skip
    theirs = outline(example("apiGatewayProxyV2Event"))
    for absent in ("stageVariables",):
        del theirs[absent]
    for absent in ("authentication", "authorizer"):
        del theirs["requestContext"][absent]
    for free in ("headers", "pathParameters", "queryStringParameters"):
        assert set(ours.pop(free).values()) == set(theirs.pop(free).values()) == {"str"}
    assert ours == theirs


def test_a_request_is_read_by_the_data_class():
    event = APIGatewayProxyEventV2(
        shaped(
            request(
                b'{"sku": [7]}', b"a=1&a=2&b=%26", path="/orders/7/a b/ü", content_type="application/json",
                cookie="a=b; c=d", host="shop.example.org:8000", user_agent="curl/8", keep={"cookie"},
            )
        )
    )  # fmt: skip
    assert event.json_body == {"sku": [7]}
    assert event.route_key == "POST /orders/{id}/{rest+}"
    assert event.path_parameters == {"id": "7", "rest": "a/b"}
    assert event.query_string_parameters == {"a": "1,2", "b": "&"}
    assert event.raw_query_string == "a=1&a=2&b=%26"
    assert (event.raw_path, event.request_context.http.path) == ("/orders/7/a%20b/%C3%BC", "/orders/7/a b/ü")
    assert event.cookies == ["a=b", "c=d"]
    assert "cookie" not in event.headers
    assert event.request_context.domain_name == "shop.example.org"
    assert event.request_context.time == "23/Nov/2026:09:23:42 +0000"
    assert (event.http_method, event.request_context.http.user_agent) == ("POST", "curl/8")


@pytest.mark.parametrize(
    ("body", "headers", "raw", "text", "is_base64"),
    [
        (b"", {}, False, None, False),
        (b"hi", {"content_type": "text/plain"}, False, "hi", False),
        (b'"hi"', {"content_type": "application/json"}, False, '"hi"', False),
        (b"null", {"content_type": "application/json", "content_length": "4"}, False, "null", False),
        (b'{ "a":1 }', {"content_type": "application/json"}, False, '{"a":1}', False),
        (b'{ "a":1 }', {"content_type": "application/json"}, True, '{ "a":1 }', False),
        (b"\xff\0", {"content_type": "image/png"}, False, base64.b64encode(b"\xff\0").decode(), True),
        (b"\xff\0", {"content_type": "image/png"}, True, base64.b64encode(b"\xff\0").decode(), True),
    ],
)
def test_a_body_is_text_or_base64(body, headers, raw, text, is_base64):
    event = APIGatewayProxyEventV2(shaped(request(body, raw=raw, **headers)))
    assert (event.body, event.is_base64_encoded) == (text, is_base64)


@given(
    body=st.binary(max_size=30) | json_values.map(lambda value: json.dumps(value).encode()),
    kind=st.sampled_from(["application/json", "text/plain", "image/png", ""]),
    query=st.binary(max_size=20), path=st.text(max_size=20), raw=st.booleans(),
    headers=st.dictionaries(st.text("abcdefg-", min_size=1), header_values, max_size=3),
    method=st.sampled_from(["GET", "POST", "DELETE"]),
)  # fmt: skip
def test_api_gateways_classes_read_every_request_of_ours(*, body, kind, query, path, raw, headers, method):
    try:
        event = request(body, query, method=method, path=f"/{path}", raw=raw, content_type=kind, **headers)
    except EventError:  # it says JSON and is not: it was answered with 400
        return
    model = parse(event=shaped(event), model=APIGatewayProxyEventV2Model)
    assert model.requestContext.http.method == method
    if raw:
        given_body = model.body or ""
        assert (base64.b64decode(given_body) if model.isBase64Encoded else given_body.encode()) == body


# -- all else --------------------------------------------------------------------------------------------------------


def test_any_other_event_is_eventbridges():
    event = new_event(source="shop", type="order.created", subject="order/7", data={"sku": 7}, time=NOW)
    ours = shaped(event)
    theirs = example("eventBridgeEvent")
    del theirs["replay-name"]
    assert outline({**ours, "detail": None}) == outline({**theirs, "detail": None})
    assert (ours["detail-type"], ours["source"], ours["detail"]) == ("order.created", "shop", {"sku": 7})
    assert parse(event=ours, model=EventBridgeModel).resources == ["order/7"]


@pytest.mark.parametrize("source", ["inbox", "jobs", "nightly", "web"])
@given(kind=st.sampled_from(["file.created", "schedule.tick", "queue.message", "http.request", "x"]), data=json_values)
def test_whatever_somebody_emits_in_a_sources_name_has_a_shape(source, kind, data):
    shaped(new_event(source=source, type=kind, data=data))


@given(data=json_values)
def test_what_is_invoked_by_hand_is_handed_over_as_it_is(data):
    assert shaped(new_event(source="cli", type="invoke", data=data)) == data


def test_a_destination_is_told_as_aws_lambda_tells_it():
    data = {"function": "f", "invocation": "i1", "attempt": 2, "event": {"id": "e"}}
    good = shaped(new_event(source="f", type="function.succeeded", data={**data, "result": [7]}))
    assert good["requestContext"]["condition"] == "Success"
    assert (good["requestPayload"], good["responsePayload"]) == ({"id": "e"}, [7])
    assert "functionError" not in good["responseContext"]
    for error, condition in (("ValueError", "RetriesExhausted"), ("Expired", "EventAgeExceeded")):
        bad = shaped(new_event(source="f", type="function.failed", data={**data, "error": {"errorType": error}}))
        assert bad["requestContext"] == {
            "requestId": "i1",
            "functionArn": "arn:aws:lambda:local:000000000000:function:f:$LATEST",
            "condition": condition,
            "approximateInvokeCount": 2,
        }
        assert bad["responseContext"]["functionError"] == "Unhandled"


def test_the_records_of_a_batch_are_put_together_and_other_shapes_are_listed():
    files = shaped(file("a"), file("b"), batch=True)
    assert [record["s3"]["object"]["key"] for record in files["Records"]] == ["a", "b"]
    assert [one["detail-type"] for one in shaped(tick(), tick(), batch=True)] == ["Scheduled Event"] * 2
    assert isinstance(shaped(tick(), batch=True), list)
    assert list(shaped(message(), batch=True)) == ["Records"]


def test_a_source_of_ones_own_may_have_a_shape_of_its_own():
    class Mail(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
        def aws(self, event, attempt):
            return {"mail": event["data"], "attempt": attempt}

    event = new_event(source="post", type="mail", data="hello").encode()
    assert json.loads(compose([(event, 2)], {"post": Mail()}, batch=False)) == {"mail": "hello", "attempt": 2}


def test_the_id_that_eventbridge_gives_depends_on_source_and_id_alone():
    one, again, other = (eventbridge({"id": "1", "source": source, "type": "t"})["id"] for source in ("a", "a", "b"))
    assert one == again != other
