"""The function aggregate: each measurement is counted once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import aggregate, database


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Functions run in the project's folder."""
    monkeypatch.chdir(tmp_path)


def event(id, data):
    return {"specversion": "1.0", "id": str(id), "source": "measurements", "type": "queue.message", "data": data}


def batch(*pairs, first=0):
    return [event(n, {"key": key, "value": value}) for n, (key, value) in enumerate(pairs, first)]


def table():
    with database.reading() as connection:
        return {row["key"]: tuple(row)[1:] for row in connection.execute("SELECT * FROM measurements")}


def test_a_batch_is_summed_up_by_key():
    result = aggregate.handler(batch(("oven", 180), ("oven", 200.5), ("fridge", -4)), None)
    assert result == {"counted": 3, "batchItemFailures": []}
    aggregate.handler(batch(("oven", 1), first=3), None)
    assert table() == {"oven": (3, 381.5, 1, 200.5), "fridge": (1, -4, -4, -4)}


def test_an_event_that_is_delivered_again_is_not_counted_again(capsys):
    events = batch(("oven", 180), ("oven", 200))
    aggregate.handler(events, None)
    assert aggregate.handler([*events, event(9, {"key": "oven", "value": 1})], None)["counted"] == 1
    assert table() == {"oven": (3, 381, 1, 200)}
    assert "1 counted, 2 known, 0 bad" in capsys.readouterr().out


BAD = [None, 5, [], {}, {"key": "a"}, {"key": "", "value": 1}, {"key": 1, "value": 1}, {"key": "a", "value": "1"}]
BAD += [{"key": "a", "value": True}, {"key": "a", "value": 10**400}, {"key": "\ud800", "value": 1}]


def test_bad_messages_alone_are_reported_as_failed():
    events = [event(n, data) for n, data in enumerate(BAD)]
    good = batch(("oven", 1), first=100)
    result = aggregate.handler([*events, *good], None)
    assert result["counted"] == 1
    assert [failure["itemIdentifier"] for failure in result["batchItemFailures"]] == [str(n) for n in range(len(BAD))]
    assert table() == {"oven": (1, 1, 1, 1)}


def test_a_bad_message_is_bad_again_and_a_repaired_one_is_counted():
    aggregate.handler([event(1, {})], None)
    assert aggregate.handler([event(1, {})], None)["batchItemFailures"] == [{"itemIdentifier": "1"}]
    assert aggregate.handler(batch(("oven", 1), first=1), None)["counted"] == 1


def test_ids_are_forgotten_after_their_time():
    old = (datetime.now(UTC).date() - timedelta(days=9)).isoformat()
    with database.writing() as connection:
        connection.execute("INSERT INTO counted VALUES ('measurements old', ?)", (old,))
    aggregate.handler(batch(("oven", 1)), None)
    with database.reading() as connection:
        assert [row["event"] for row in connection.execute("SELECT event FROM counted")] == ["measurements 0"]


@given(
    values=st.lists(st.tuples(st.sampled_from("abc"), st.integers(-1000, 1000)), min_size=1, max_size=20),
    cut=st.integers(0, 20),
)
@settings(max_examples=30)
def test_however_the_stream_is_cut_into_batches_that_overlap_the_sums_are_the_same(values, cut):
    with database.writing() as connection:
        connection.execute("DELETE FROM measurements")
        connection.execute("DELETE FROM counted")
    events = batch(*values)
    aggregate.handler(events[:cut], None)
    aggregate.handler(events[max(0, cut - 3) :], None)
    for key, (count, total, least, greatest) in table().items():
        mine = [value for name, value in values if name == key]
        assert (count, total, least, greatest) == (len(mine), sum(mine), min(mine), max(mine))
    assert sum(row[0] for row in table().values()) == len(values)
