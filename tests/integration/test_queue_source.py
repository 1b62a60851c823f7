"""The queue source: what foreign Redis clients push becomes events, once each, whoever dies."""

from __future__ import annotations

import base64
import json
import logging
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import EventError, QueueFull
from broker.quantity import Size
from broker.source import Publishing, find
from sources._queue import drain as _queue_drain
from sources._queue import inbox
from sources._queue.item import Item, bad_record, read
from sources.queue import Queue
from tests.conftest import PrivateServer, until
from tests.source_context import RealContext, running

LIST, STREAM, BAD = "broker:queue:orders", "broker:stream:orders", "broker:queue:orders:bad"

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)

CHILD = """
import sys, threading, redis
from pathlib import Path
from sources.queue import Queue
from tests.source_context import RealContext
context = RealContext(redis.Redis.from_url(sys.argv[1]), Path("."), name="orders")
threading.Thread(target=lambda: (sys.stdin.read(), context.stopping.set()), daemon=True).start()
Queue().run(context)
"""


@pytest.fixture
def context(redis_client, tmp_path):
    return RealContext(redis_client, tmp_path, name="orders")


@contextmanager
def children(url, number):
    """Run the source in processes of their own; they end when their stdin does."""
    started = [subprocess.Popen([sys.executable, "-c", CHILD, url], stdin=subprocess.PIPE) for _ in range(number)]
    try:
        yield started
    finally:
        for child in started:
            with suppress(BrokenPipeError):
                child.stdin.close()
        for child in started:
            child.wait(30)


@pytest.fixture(autouse=True)
def _quick_to_stop(monkeypatch):
    """Keep the tests short; the processes among them have the real patience."""
    monkeypatch.setattr(_queue_drain, "PATIENCE", 0.05)


def push(client, start, number, *, to=LIST):
    """Push numbers as a client in another language would: one raw command each."""
    with client.pipeline(transaction=False) as pipe:
        for n in range(start, start + number):
            if to == LIST:
                pipe.execute_command("RPUSH", LIST, json.dumps({"n": n}))
            else:
                pipe.execute_command("XADD", STREAM, "*", "data", json.dumps({"n": n}))
        pipe.execute()


def answers(url):
    with suppress(redis.ConnectionError), redis.Redis.from_url(url, retry=None) as client:
        return client.ping()


def at_rest(client):
    """Return whether nothing is left anywhere, neither waiting nor taken."""
    left = [client.llen(LIST), client.xlen(STREAM), len(client.keys("broker:source:orders:pending:*"))]
    return not any(left)


def published(context, number):
    until(lambda: context.count() >= number, within=15, what=f"{number} events")
    until(lambda: at_rest(context.redis), what="everything is settled")
    return context.records()


def bad(client, number):
    until(lambda: client.llen(BAD) >= number, what=f"{number} bad items")
    return [json.loads(raw) for raw in client.lrange(BAD, 0, -1)]


def test_the_kind_is_found_by_its_name(tmp_path):
    assert find("queue", tmp_path) is Queue


def test_an_item_pushed_to_the_list_is_an_event(context, redis_client):
    redis_client.execute_command("RPUSH", LIST, '{"sku": 7}', '"text"', "null")
    with running(Queue(), context):
        records = published(context, 3)
    assert [record["data"] for record in records] == [{"sku": 7}, "text", None]
    first = records[0]
    assert (first["source"], first["type"], "subject" in first) == ("orders", "queue.message", False)


def test_what_is_pushed_while_the_source_waits_is_taken_in_order(context, redis_client):
    with running(Queue(), context):
        for n in range(5):
            push(redis_client, n, 1)
            until(lambda n=n: context.count() == n + 1)
        push(redis_client, 5, 1, to=STREAM)
        records = published(context, 6)
    assert [record["data"]["n"] for record in records] == list(range(6))
    assert len({record["id"] for record in records}) == 6


def test_an_entry_of_the_stream_says_its_id_delay_and_priority(context, redis_client):
    redis_client.execute_command("XADD", STREAM, "1700000000000-0", "data", "[1]")
    redis_client.execute_command("XADD", STREAM, "*", "data", "2", "id", "o-1", "delay", "1h30m", "priority", "high")
    redis_client.execute_command("XADD", STREAM, "*", "data", "3", "delay", "2.5")
    with running(Queue(), context):
        published(context, 3)
    found = {json.dumps(event.data): (event, how) for event, how in context.published}
    assert found["[1]"][0].id == "stream-1700000000000-0"
    assert found["[1]"][0].time == "2023-11-14T22:13:20.000000Z"
    assert found["2"][0].id == "o-1"
    assert found["2"][1] == Publishing(delay=5400, priority="high")
    assert found["3"][1] == Publishing(delay=2.5)


def test_an_entry_without_data_is_data_itself(context, redis_client):
    redis_client.execute_command("XADD", STREAM, "*", "city", "Oslo", "id", "7")
    with running(Queue(), context):
        assert published(context, 1)[0]["data"] == {"city": "Oslo", "id": "7"}


def test_the_same_id_twice_is_one_event(context, redis_client):
    for n in range(3):
        redis_client.execute_command("XADD", STREAM, "*", "data", n, "id", "same")
    with running(Queue(), context):
        assert [record["data"] for record in published(context, 1)] == [0]


def test_an_item_with_a_specversion_is_a_whole_cloudevent(context, redis_client):
    event = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.placed", "subject": "7", "data": [1]}
    for _ in range(2):
        redis_client.execute_command("RPUSH", LIST, json.dumps(event))
    with running(Queue(), context):
        records = published(context, 1)
    assert len(records) == 1, "one id is one event"
    assert records[0]["source"] == "orders", "its triggers are those of the queue"
    assert records[0]["cesource"] == "/shop"
    assert (records[0]["type"], records[0]["subject"], records[0]["data"]) == ("order.placed", "7", [1])


BAD_ITEMS = {
    b"{": "not JSON",
    b"": "not JSON",
    b"[NaN]": "not JSON",
    b"[Infinity]": "not JSON",
    b"1e999": "not JSON",
    b'"\xff"': "not JSON",
    b"[" * 100_000: "nested too deeply",
    b'{"specversion": "1.0", "id": "1"}': "source",
    b'"' + b"x" * (1 << 20) + b'"': "max_item",
}


def test_bad_items_are_set_aside_with_the_reason_and_block_nothing(context, redis_client, caplog):
    for item in BAD_ITEMS:
        redis_client.execute_command("RPUSH", LIST, item)
    push(redis_client, 0, 1)
    with caplog.at_level(logging.WARNING), running(Queue(), context):
        assert [record["data"] for record in published(context, 1)] == [{"n": 0}]
    records = bad(redis_client, len(BAD_ITEMS))
    for (item, reason), record in zip(BAD_ITEMS.items(), records, strict=True):
        kept = base64.b64decode(record["item_base64"]) if "item_base64" in record else record["item"].encode()
        assert kept == item[: 1 << 20]
        assert record["size"] == len(item)
        assert reason in record["why"]
        assert record["time"].endswith("Z") and record["place"] == "list"
    assert redis_client.get("broker:source:orders:bad") == str(len(BAD_ITEMS)).encode()
    assert f"refused {len(BAD_ITEMS)} of {LIST}" in caplog.text


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (("data", "{"), "not JSON"),
        (("data", "1", "delay", "soon"), "delay: expected seconds"),
        (("data", "1", "delay", "-1"), "delay: expected seconds"),
        (("data", "1", "delay", "nan"), "delay: expected seconds"),
        (("data", "1", "delay", "999999999999"), "delay: expected at most"),
        (("data", "1", "priority", "urgent"), "priority: expected high, normal or low, got 'urgent'"),
        (("data", "1", "id", ""), "id: expected 1 to 255"),
        (("data", "1", "dealy", "5"), "unknown field 'dealy': did you mean \"delay\""),
        (("data", "1", "data", "2"), "the field 'data' is there twice"),
        (("city", b"\xff"), "not UTF-8"),
        (("data", '{"specversion":"1.0","id":"1","source":"a","type":"b"}', "id", "2"), "a CloudEvent has its own"),
    ],
)
def test_a_bad_entry_of_the_stream_is_set_aside_with_the_reason(context, redis_client, fields, reason):
    redis_client.execute_command("XADD", STREAM, "*", *fields)
    with running(Queue(), context):
        [record] = bad(redis_client, 1)
        until(lambda: at_rest(redis_client))
    assert reason in record["why"]
    pairs = record.get("fields") or [[base64.b64decode(part) for part in pair] for pair in record["fields_base64"]]
    assert [part if isinstance(part, bytes) else part.encode() for pair in pairs for part in pair] == [
        part if isinstance(part, bytes) else part.encode() for part in fields
    ]
    assert context.count() == 0


def item(**fields):
    pairs = tuple((name.encode(), value) for name, value in fields.items())
    return Item(place="stream", key=b"1-1", size=sum(len(value) for value in fields.values()), fields=pairs)


def read_item(**fields):
    return read(item(**fields), "orders", limit=1 << 20, now=datetime.now(UTC))


@given(data=JSON)
def test_any_json_is_the_data_of_its_event(data):
    if not (isinstance(data, dict) and "specversion" in data):
        assert read_item(data=json.dumps(data).encode()).event.data == data


@given(fields=st.dictionaries(st.sampled_from(["data", "id", "delay", "priority", "other"]), st.binary(max_size=20)))
def test_any_bytes_are_either_an_event_or_refused_with_a_reason_that_can_be_kept(fields):
    try:
        read_item(**fields).event.encode()
    except EventError as error:
        record = json.loads(bad_record(item(**fields), str(error), now=datetime.now(UTC)))
        assert record["why"]
        assert "fields" in record or "fields_base64" in record


def test_a_large_entry_is_cut_and_max_item_says_what_is_large(context, redis_client):
    redis_client.execute_command("XADD", STREAM, "*", "data", json.dumps("x" * 200))
    redis_client.execute_command("RPUSH", LIST, json.dumps("x" * 99))
    redis_client.execute_command("RPUSH", LIST, json.dumps("x" * 98))
    with running(Queue(max_item=Size(100)), context):
        records = bad(redis_client, 2)
        assert [record["data"] for record in published(context, 1)] == ["x" * 98]
    assert {record["size"] for record in records} == {206, 101}


def test_only_the_newest_bad_items_are_kept_and_all_are_counted(context, redis_client, monkeypatch):
    monkeypatch.setattr(inbox, "KEPT_BAD", 10)
    redis_client.rpush(LIST, *[f"bad{n}" for n in range(25)])
    with running(Queue(), context):
        until(lambda: redis_client.get("broker:source:orders:bad") == b"25")
    assert [json.loads(raw)["item"] for raw in redis_client.lrange(BAD, 0, -1)] == [f"bad{n}" for n in range(15, 25)]


def test_a_key_of_the_wrong_type_is_told_and_does_not_hold_up_the_other(context, redis_client, caplog):
    redis_client.set(LIST, "not a list")
    push(redis_client, 0, 1, to=STREAM)
    with caplog.at_level(logging.WARNING), running(Queue(), context):
        until(lambda: context.count() == 1)
        until(lambda: "WRONGTYPE" in caplog.text)
        redis_client.delete(LIST)
        push(redis_client, 1, 1)
        until(lambda: context.count() == 2)


def test_a_stream_that_somebody_deletes_is_made_again(context, redis_client):
    with running(Queue(), context):
        push(redis_client, 0, 1, to=STREAM)
        until(lambda: context.count() == 1)
        redis_client.delete(STREAM)
        push(redis_client, 1, 1, to=STREAM)
        until(lambda: context.count() == 2)


def test_what_cannot_be_published_when_the_source_stops_is_published_by_the_next_one(context, redis_client):
    push(redis_client, 0, 3)
    push(redis_client, 3, 3, to=STREAM)
    context.fail(QueueFull("f", 1))
    with running(Queue(), context):
        until(lambda: redis_client.keys("broker:source:orders:pending:*") and not redis_client.llen(LIST))
        until(lambda: redis_client.xpending(STREAM, "broker")["pending"] == 3)
    assert context.count() == 0
    context.fail(None)
    with running(Queue(), context):
        records = published(context, 6)
    assert sorted(record["data"]["n"] for record in records) == list(range(6))


def test_a_dead_consumer_of_another_machine_is_taken_over_once_its_lease_is_over(context, redis_client):
    keys = inbox.Keys.of("orders", context.prefix)
    push(redis_client, 0, 2)
    push(redis_client, 2, 2, to=STREAM)
    dead = "elsewhere-00000000-1-1"
    boxes = [kind(redis_client, keys, dead, 1 << 20) for kind in (inbox.ListInbox, inbox.StreamInbox)]
    for box in boxes:
        box.open()
        assert len(box.take()) == 2
    with running(Queue(), context):
        push(redis_client, 4, 1)
        until(lambda: context.count() == 1)
        redis_client.zadd(keys.consumers, {dead: 1})
        records = published(context, 5)
    assert sorted(record["data"]["n"] for record in records) == list(range(5))
    names = [consumer["name"].decode() for consumer in redis_client.xinfo_consumers(STREAM, "broker")]
    assert dead not in names and not redis_client.zscore(keys.consumers, dead)


def test_nothing_is_lost_or_doubled_when_the_process_is_killed_while_it_drains(context, redis_client, redis_server):
    push(redis_client, 0, 2500)
    push(redis_client, 2500, 2500, to=STREAM)
    for kill_at in (1, 1500, 3000):
        with children(redis_server.url, 1) as [child]:
            until(lambda kill_at=kill_at: context.count() >= kill_at, every=0.0005, what=f"{kill_at} events")
            child.send_signal(signal.SIGKILL)
            child.wait()
    assert not at_rest(redis_client), "the kills came while there was something to do"
    with children(redis_server.url, 1):
        records = published(context, 5000)
    assert Counter(record["data"]["n"] for record in records) == Counter(range(5000))
    assert len({record["id"] for record in records}) == 5000


def test_two_hosts_share_a_queue_and_one_survives_the_other(context, redis_client, redis_server):
    with children(redis_server.url, 2) as [first, _]:
        until(lambda: redis_client.zcard("broker:source:orders:consumers") == 2, what="both are there")
        push(redis_client, 0, 1000)
        push(redis_client, 1000, 1000, to=STREAM)
        until(lambda: context.count() >= 500, every=0.0005)
        first.send_signal(signal.SIGKILL)
        first.wait()
        push(redis_client, 2000, 1000)
        records = published(context, 3000)
    assert Counter(record["data"]["n"] for record in records) == Counter(range(3000))


def test_redis_that_goes_away_is_waited_for(tmp_path):
    server = PrivateServer("--appendonly", "yes", "--appendfsync", "always")
    context = RealContext(redis.Redis.from_url(server.url), tmp_path, name="orders")
    try:
        with running(Queue(), context):
            push(context.redis, 0, 10)
            until(lambda: context.count() == 10)
            server.process.kill()
            server.process.wait()
            server.process = subprocess.Popen(server.process.args, stdout=subprocess.DEVNULL)
            until(lambda: answers(server.url), what="Redis is back")
            push(context.redis, 10, 10)
            push(context.redis, 20, 10, to=STREAM)
            assert Counter(record["data"]["n"] for record in published(context, 30)) == Counter(range(30))
    finally:
        context.redis.close()
        server.close()


def test_the_options_are_checked(tmp_path):
    assert Queue().check(tmp_path) == []
    assert Queue(max_item=Size(0)).check(tmp_path) == ["max_item: expected 1B to 512MB, got 0B"]
    assert "RPUSH broker:queue:NAME" in Queue().plan(tmp_path)[0]
