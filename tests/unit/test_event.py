"""Event and its ids."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import event as events
from broker.errors import EventError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(data=JSON, subject=st.none() | st.text(), id=st.text(min_size=1))
def test_what_is_encoded_decodes_to_the_same_event(data, subject, id):
    event = events.new_event(source="inbox", type="file.created", id=id, subject=subject, data=data)
    assert events.decode(event.encode()) == event


@given(id=st.text(min_size=1), function=st.from_regex(r"[a-z]{1,9}", fullmatch=True))
def test_an_invocation_id_is_one_that_rq_accepts_and_repeats_itself(id, function):
    event = events.new_event(source="s", type="t", id=id)
    assert events.invocation_id(function, event) == events.invocation_id(function, event)
    assert len(events.invocation_id(function, event)) == 32
    assert events.invocation_id(function + "x", event) != events.invocation_id(function, event)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "JSON object"),
        (b'{"specversion":"0.3"}', "specversion"),
        (b'{"specversion":"1.0","id":"","source":"a","type":"b"}', "id"),
        (b'{"specversion":"1.0","id":"1","source":"a","type":5}', "type"),
        (b'{"specversion":"1.0","id":"1","source":"a","type":"b","Ext":"c"}', "lower-case"),
        (b'{"specversion":"1.0","id":"1","source":"a","type":"b","ext":{}}', "ext"),
        (b'{"specversion":"1.0","id":"1","source":"a","type":"b","data":1,"data_base64":"aa"}', "exclude"),
    ],
)
def test_what_is_no_cloudevent_is_refused_with_the_reason(raw, says):
    with pytest.raises(EventError, match=says):
        events.decode(raw)


def test_nan_in_the_data_is_refused_rather_than_sent_as_null():
    with pytest.raises(EventError, match="not JSON"):
        events.new_event(source="s", type="t", data={"x": float("nan")}).encode()


@given(data=JSON, subject=st.none() | st.text())
def test_what_is_known_to_be_json_is_encoded_to_the_same_record(data, subject):
    slow = events.new_event(source="hook", type="t", id="1", subject=subject, data=data)
    fast = msgspec.structs.replace(slow, is_json=True)
    assert json.loads(fast.encode()) == json.loads(slow.encode())


def test_an_event_of_this_moment_has_its_time_to_the_microsecond():
    before = events.rfc3339(datetime.now(UTC))
    time = events.new_event(source="s", type="t").time
    assert before <= time <= events.rfc3339(datetime.now(UTC))
    assert events.rfc3339(datetime.fromisoformat(time)) == time
