"""CloudEvents over HTTP: the conformance requests, and the corners of the binding."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import cloudevents as binding
from broker.errors import EventError
from broker.event import invocation_id

VECTORS = [
    json.loads(line) for line in (Path(__file__).parents[1] / "data/cloudevents/http.jsonl").read_text().splitlines()
]
BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/a", "ce-type": "t"}
STRUCTURED = {"content-type": "application/cloudevents+json"}


def lower(headers):
    return {name.lower(): value for name, value in headers.items()}


def structured(**more):
    return json.dumps({"specversion": "1.0", "id": "1", "source": "/a", "type": "t"} | more).encode()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_a_conformance_request_is_read_as_the_specification_says(vector):
    headers, body = lower(vector["headers"]), vector["body"].encode()
    assert binding.carries(headers)
    if not vector["accept"]:
        with pytest.raises(EventError):
            binding.read(headers, body)
        return
    events = binding.read(headers, body)
    if vector["attributes"] is not None:
        [event] = events
        record = event.record()
        assert {name: record[name] for name in vector["attributes"]} == vector["attributes"]
    if vector["data"] is not None:
        assert events[0].data == vector["data"]


def test_all_26_vectors_are_there():
    assert len(VECTORS) == 26


def test_a_batch_gives_its_events_in_order_and_an_empty_one_none():
    headers = {"content-type": "application/cloudevents-batch+json; charset=utf-8"}
    assert binding.is_batch(headers)
    body = b"[" + structured(id="1") + b"," + structured(id="2") + b"]"
    assert [event.id for event in binding.read(headers, body)] == ["1", "2"]
    assert binding.read(headers, b"[]") == []


def test_an_ordinary_request_carries_no_cloudevent():
    assert not binding.carries({"content-type": "application/json"})
    assert not binding.is_batch({})


@given(text=st.text(min_size=1))
def test_a_percent_encoded_header_decodes_to_the_text_it_was_made_of(text):
    [event] = binding.read(BINARY | {"ce-subject": quote(text, safe="")}, b"")
    assert event.subject == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%e2%82%ac", "€"),
        ('"a \\"quoted\\" one"', 'a "quoted" one'),
        ("100%25", "100%"),
        ("€".encode().decode("latin-1"), "€"),
    ],
)
def test_header_values_are_unquoted_and_percent_decoded_once(value, expected):
    [event] = binding.read(BINARY | {"ce-subject": value}, b"")
    assert event.subject == expected


def test_an_overlong_encoding_is_refused():
    with pytest.raises(EventError, match="subject"):
        binding.read(BINARY | {"ce-subject": "%C0%A0"}, b"")


@pytest.mark.parametrize(
    ("content_type", "body", "data", "data_base64"),
    [
        ("application/vnd.x+json", b'{"a":1}', {"a": 1}, None),
        ("text/plain", "ä".encode(), "ä", None),
        ("text/plain", b"\xff", None, "/w=="),
        ("application/xml", b"<a/>", "<a/>", None),
        ("image/png", b"\x89PNG", None, "iVBORw=="),
        ("application/octet-stream", b"abc", None, "YWJj"),
    ],
)
def test_binary_mode_keeps_the_body_in_the_form_its_type_asks_for(content_type, body, data, data_base64):
    [event] = binding.read(BINARY | {"content-type": content_type}, body)
    assert (event.data, event.data_base64, event.datacontenttype) == (data, data_base64, content_type)


@pytest.mark.parametrize(
    ("headers", "body", "says"),
    [
        (BINARY | {"content-type": "application/json"}, b"{", "not JSON"),
        (BINARY | {"content-type": "application/json"}, b"[" * 100_000, "nested"),
        (BINARY | {"ce-datacontenttype": "text/plain"}, b"", "datacontenttype"),
        (BINARY | {"ce-data": "x"}, b"", "data"),
        (BINARY | {"ce-foo-bar": "x"}, b"", "foo-bar"),
        (STRUCTURED, structured(data_base64="!"), "data_base64"),
        (STRUCTURED, structured(data_base64=5), "data_base64"),
        (STRUCTURED, structured(data=1, data_base64="YQ=="), "exclude"),
        (STRUCTURED, structured(subject=""), "subject"),
        (STRUCTURED, b"5", "JSON object, got int"),
        ({"content-type": "application/cloudevents-batch+json"}, b"{}", "JSON array, got dict"),
        ({"content-type": "application/cloudevents+avro"}, b"", "avro"),
    ],
)
def test_what_is_no_valid_cloudevent_is_refused_with_the_reason(headers, body, says):
    with pytest.raises(EventError, match=says):
        binding.read(headers, body)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2018-04-05T03:56:24Z", "2018-04-05T03:56:24Z"),
        ("2018-04-05T03:56:24.123456789Z", "2018-04-05T03:56:24.123456789Z"),
        ("2018-04-05T03:56:24+02:00", "2018-04-05T01:56:24.000000Z"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:60Z"),
    ],
)
def test_a_time_is_kept_in_utc(given, kept):
    [event] = binding.read(STRUCTURED, structured(time=given))
    assert event.time == kept


@pytest.mark.parametrize(
    "time",
    [
        "yesterday",
        "2018-04-05",
        "2018-13-05T03:56:24Z",
        "2018-04-05 03:56:24",
        "2018-04-05T03:60:24Z",
        "0001-01-01T00:00:00+01:00",
        5,
    ],
)
def test_a_time_that_is_none_is_refused(time):
    with pytest.raises(EventError, match="time"):
        binding.read(STRUCTURED, structured(time=time))


def test_null_says_that_an_attribute_is_not_there():
    [event] = binding.read(STRUCTURED, structured(subject=None, data=None, data_base64="YQ=="))
    assert (event.subject, event.data_base64) == (None, "YQ==")


def test_an_adopted_event_keeps_who_sent_it_and_belongs_to_the_brokers_source():
    [sent] = binding.read(STRUCTURED, structured(id="7", subject="s", data={"a": 1}, traceparent="00-x"))
    event = binding.adopt(sent, "hooks")
    assert (event.source, event.id, event.type, event.subject, event.data) == ("hooks", "/a|7", "t", "s", {"a": 1})
    assert event.extensions == {"traceparent": "00-x", "cesource": "/a", "ceid": "7"}


PART = st.text("a|%7C", min_size=1)


@given(pairs=st.lists(st.tuples(PART.filter(lambda text: "|" not in text), PART), min_size=2, max_size=2, unique=True))
def test_two_different_events_never_become_the_same_one(pairs):
    adopted = [
        binding.adopt(binding.read(STRUCTURED, structured(source=source, id=ident))[0], "hooks")
        for source, ident in pairs
    ]
    assert invocation_id("f", adopted[0]) != invocation_id("f", adopted[1])


def test_a_source_that_is_no_uri_reference_is_refused():
    with pytest.raises(EventError, match="URI reference"):
        binding.read(STRUCTURED, structured(source="a|b"))
