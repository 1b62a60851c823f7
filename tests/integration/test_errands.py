"""Errands: what many sources want of Redis at once takes few calls, and one that fails is in no other's way."""

from __future__ import annotations

import pytest
import redis
from redis.exceptions import ResponseError

from broker.errands import Errands
from broker.errors import EventTooLarge, QueueFull, StoreUnavailable
from broker.event import new_event
from broker.publisher import GROUP
from broker.source import Command, Publish


@pytest.fixture
def errands(project):
    project.configure(
        "def handler(event, context): return 1\n",
        '[sources.r]\nkind = "queue"\n[[triggers]]\nsource = "r"\nfunction = "g"\n'
        '[functions.g]\nhandler = "f.py:handler"\nmax_queue = 1\n',
    )
    return Errands(project.publisher, project.client)


def publish(source, *ids, data=None):
    return Publish(events=[new_event(source=source, type="t", id=id, data=data) for id in ids])


def scripts_run(client):
    return client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]


def test_many_publish_in_one_call_and_each_gets_its_own_receipts(errands, project):
    errands.carry_out([publish("q", "0")])
    before = scripts_run(project.client)
    answers = errands.carry_out([publish("q", str(n), f"{n}+") for n in range(1, 100)])
    assert scripts_run(project.client) - before == 1
    assert [[receipt.event for receipt in own] for own in answers] == [[str(n), f"{n}+"] for n in range(1, 100)]


def test_no_call_publishes_more_than_a_group(errands, project):
    errands.carry_out([publish("q", "0")])
    before = scripts_run(project.client)
    errands.carry_out([publish("q", *(str(n) for n in range(1, GROUP + 1))), publish("q", "last")])
    assert scripts_run(project.client) - before == 2
    assert project.client.llen("rq:queue:f") == GROUP + 2


def test_a_full_queue_is_told_to_those_that_met_it(errands, project):
    one, full, two = errands.carry_out([publish("q", "1"), publish("r", "2", "3"), publish("q", "4")])
    assert isinstance(full, QueueFull)
    assert one[0].invocations
    assert two[0].invocations
    assert project.client.llen("rq:queue:g") == 1


def test_an_event_that_is_too_large_is_in_no_others_way(errands):
    large, usual = errands.carry_out([publish("q", "1", data="x" * 2_000_000), publish("q", "2")])
    assert isinstance(large, EventTooLarge)
    assert usual[0].invocations


def test_each_command_gets_its_reply_or_its_error(errands):
    answers = errands.carry_out(
        [Command(("SET", "a", "1")), Command(("LPUSH", "a", "x")), publish("q", "1"), Command(("GET", "a"))]
    )
    assert isinstance(answers[1], ResponseError)
    assert answers[2][0].invocations
    assert answers[3] == b"1"


def test_a_redis_that_is_away_is_the_answer_to_all_that_are_left(project, errands):
    gone = redis.Redis(unix_socket_path="/nowhere")
    published, command = Errands(project.publisher, gone).carry_out([publish("q", "1"), Command(("GET", "a"))])
    assert published[0].invocations
    assert isinstance(command, StoreUnavailable)


def test_a_redis_that_is_full_is_one_that_is_away(errands, project):
    project.client.config_set("maxmemory", 1)
    try:
        answers = errands.carry_out([Command(("SET", "a", "1")), Command(("SET", "b", "1"))])
    finally:
        project.client.config_set("maxmemory", 0)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
