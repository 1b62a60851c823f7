"""`debounce` and `unique_for`: of many like events one runs; what does not run is told to whoever published it."""

from __future__ import annotations

import json
import time

import pytest
from rq.job import Job
from rq.serializers import JSONSerializer

from broker.ledger import Settlement, reading
from broker.ledger.values import ACCEPTED, DUPLICATE, FULL
from broker.source import Publishing
from tests.conftest import until
from tests.integration.flow_driver import Driver


@pytest.fixture
def driver(redis_client):
    driver = Driver(redis_client)
    yield driver
    driver.check()


def calm(driver, id, **more):
    return driver.order(id, debounce="f:k", quiet=600, **more)


def let_quiet_pass(driver, id, queue="f"):
    driver.client.zadd(f"rq:scheduled:{queue}", {id: time.time() - 1})


def test_of_events_within_the_debounce_the_last_one_runs_after_so_much_quiet(driver):
    answers = driver.publish(calm(driver, "a"), calm(driver, "b"))
    answers += driver.publish(calm(driver, "c"), driver.order("d", debounce="f:other", quiet=600))
    assert answers == [ACCEPTED] * 4
    assert [getattr(answer, "other", None) for answer in answers] == [None, "a", "b", None]
    answer = driver.claim()
    assert answer.claimed == []
    assert 590 < answer.due_in["f"] <= 600
    assert (driver.account().superseded, driver.account().scheduled, driver.account().accepted) == (2, 2, 4)
    let_quiet_pass(driver, "c")
    assert driver.take() == ["c"]


def test_what_has_had_its_quiet_runs_even_if_nobody_has_taken_it_yet(driver):
    driver.publish(calm(driver, "a"))
    let_quiet_pass(driver, "a")
    (answer,) = driver.publish(calm(driver, "b"))
    assert not hasattr(answer, "other")
    assert driver.take() == ["a"]


def test_a_retry_that_waits_is_not_superseded(driver):
    driver.publish(calm(driver, "a"))
    let_quiet_pass(driver, "a")
    (first,) = driver.claim().claimed
    driver.settle(first, "retry", delay=300, failed=True)
    (answer,) = driver.publish(calm(driver, "b"))
    assert not hasattr(answer, "other")
    assert driver.account().scheduled == 2


def test_a_stream_without_quiet_runs_after_the_longest_wait(driver):
    driver.publish(calm(driver, "a", longest=900))
    began = driver.client.zscore("rq:scheduled:f", "a") - 600
    driver.client.set("broker:debounce:f:k", f"{began - 500:.3f}:a")  # the first of them came 500 s ago
    driver.publish(calm(driver, "b", longest=900))
    assert driver.client.zscore("rq:scheduled:f", "b") == pytest.approx(began + 400, abs=0.01)
    driver.publish(calm(driver, "c", longest=900))
    assert driver.client.zscore("rq:scheduled:f", "c") == pytest.approx(began + 400, abs=0.01)


def test_one_whose_longest_wait_is_over_since_it_was_made_shorter_is_due_at_once(driver):
    driver.publish(calm(driver, "a", longest=900))
    began = driver.client.zscore("rq:scheduled:f", "a") - 600
    driver.client.set("broker:debounce:f:k", f"{began - 500:.3f}:a")
    (answer,) = driver.publish(calm(driver, "b", longest=60, track="s", event="e"))
    assert answer.other == "a"
    assert driver.take() == ["b"]


def test_a_superseded_invocation_is_shown_as_such_and_forgotten_after_keep(driver):
    driver.publish(calm(driver, "a", keep=60), calm(driver, "b"))
    one = reading.fetch(driver.client, "a")
    assert (one.status, one.reason, one.attempt) == ("canceled", "Superseded", 0)
    assert one.ended is not None
    assert [found.id for found in reading.recent(driver.client, ["f"], statuses=["canceled"])] == ["a"]
    assert Job.fetch("a", connection=driver.client, serializer=JSONSerializer).is_canceled
    assert 0 < driver.client.ttl("rq:job:a") <= 60
    driver.client.delete("rq:job:a")  # as time does
    driver.check()


def test_who_waits_for_a_superseded_one_is_told_and_its_event_has_not_failed(driver):
    listener = driver.client.pubsub()
    listener.subscribe("broker:reply:1")
    until(lambda: listener.get_message(timeout=1))
    driver.publish(calm(driver, "a", reply="broker:reply:1", track="s", event="e1"), calm(driver, "b"))
    message = until(lambda: listener.get_message(timeout=1))
    id, ok, body = message["data"].split(b"\n")
    assert (id, ok, json.loads(body)["errorType"]) == (b"a", b"0", "Superseded")
    assert driver.client.lrange("broker:ended:s", 0, -1) == [b"0\ne1"]
    listener.close()


def test_the_same_event_twice_does_not_supersede_itself(driver):
    assert driver.publish(calm(driver, "a"), calm(driver, "a")) == [ACCEPTED, DUPLICATE]
    assert driver.publish(calm(driver, "a")) == [DUPLICATE]
    assert driver.account().superseded == 0


def test_a_debounced_destination_supersedes_like_any_other(driver):
    driver.publish(driver.order("cause"), calm(driver, "a"))
    (cause,) = driver.claim().claimed
    assert driver.settle(cause, orders=(calm(driver, "b"),))
    assert driver.account().superseded == 1
    let_quiet_pass(driver, "b")
    assert driver.take() == ["b"]


def test_a_debounced_event_takes_its_turn_when_it_has_had_its_quiet(driver):
    driver.publish(driver.order("a", key="x"), calm(driver, "b", key="x"), calm(driver, "c", key="x"))
    (first,) = driver.claim().claimed
    let_quiet_pass(driver, "c")
    assert driver.take() == []
    assert driver.account().deferred == 1
    driver.settle(first)
    assert driver.take() == ["c"]


def test_what_waits_for_quiet_can_be_cancelled_and_is_not_superseded_then(driver):
    driver.publish(calm(driver, "a"))
    Job.fetch("a", connection=driver.client, serializer=JSONSerializer).cancel()
    (answer,) = driver.publish(calm(driver, "b"))
    assert not hasattr(answer, "other")
    assert (driver.account().cancelled, driver.account().superseded) == (1, 0)


def unique(driver, id, key="f:u", **more):
    return driver.order(id, unique=key, unique_ms=600_000, **more)


def test_an_equal_event_is_refused_as_a_duplicate_of_the_first(driver):
    first, second, other = driver.publish(unique(driver, "a"), unique(driver, "b"), unique(driver, "c", "f:v"))
    assert (first, second, other) == (ACCEPTED, DUPLICATE, ACCEPTED)
    assert second.other == "a"
    (third,) = driver.publish(unique(driver, "d"))
    assert (third, third.other) == (DUPLICATE, "a")
    assert driver.account().accepted == 2
    assert 0 < driver.client.pttl("broker:unique:f:u") <= 600_000


def test_an_equal_event_is_refused_whatever_became_of_the_first_until_the_time_is_over(driver):
    driver.publish(unique(driver, "a"))
    (first,) = driver.claim().claimed
    driver.settle(first, "dead")
    driver.ledger.settle("cli", [Settlement(verdict="drop", queue="f", id="a")])
    assert driver.publish(unique(driver, "b")) == [DUPLICATE]
    driver.client.delete("broker:unique:f:u")  # as time does
    assert driver.publish(unique(driver, "b")) == [ACCEPTED]


def test_what_a_full_queue_refused_does_not_make_others_duplicates(driver):
    driver.publish(driver.order("x"))
    full = {"max_queue": 1}
    assert driver.publish(unique(driver, "a", **full), unique(driver, "a", **full)) == [FULL, FULL]
    assert driver.publish(unique(driver, "a", **full), unique(driver, "b", **full)) == [FULL, FULL]
    assert driver.publish(unique(driver, "b")) == [ACCEPTED]


def test_an_equal_destination_is_not_taken_on_again(driver):
    driver.publish(driver.order("cause"), unique(driver, "a"))
    cause, _ = driver.claim().claimed
    assert driver.settle(cause, orders=(unique(driver, "b"),))
    assert driver.account().accepted == 2


NOTE = """
    import os
    def handler(event, context):
        with open("seen", "a") as seen:
            seen.write(f'{event["data"]["n"]} {event.get("subject")}\\n')
"""


def test_two_workers_run_the_last_of_each_key_once(project):
    project.configure(NOTE, debounce="500ms", debounce_by="data.room")
    project.worker()
    project.worker()
    receipts = [receipt for n in range(30) for receipt in project.publish({"n": n, "room": n % 2})]
    told = {id for receipt in receipts for id in receipt.superseded}
    ids = [receipt.invocations[0] for receipt in receipts]
    for id in ids:
        project.ends(id, "canceled" if id in told else "finished")
    assert set(ids[-2:]).isdisjoint(told)
    runs = [int(line.split()[0]) for line in (project.root / "seen").read_text().splitlines()]
    assert sorted(runs) == sorted(n for n, id in enumerate(ids) if id not in told)
    assert all(project.job(id)["reason"] == "Superseded" for id in told)


def test_of_equal_events_that_are_published_while_two_workers_run_one_runs(project):
    project.configure(NOTE, unique_for="1h")
    project.worker()
    project.worker()
    receipts = [receipt for n in (1, 1, 2, 1, 2) for receipt in project.publish({"n": n})]
    assert [receipt.duplicate for receipt in receipts] == [False, True, False, True, True]
    first, second = receipts[0].invocations[0], receipts[2].invocations[0]
    assert [receipt.invocations[0] for receipt in receipts] == [first, first, second, first, second]
    project.ends(first)
    project.ends(second)
    assert sorted((project.root / "seen").read_text().splitlines()) == ["1 None", "2 None"]


def test_a_schedule_of_priorities_does_not_matter_to_what_supersedes(project):
    project.configure(NOTE, debounce="1h")
    (low,) = project.publish({"n": 1}, Publishing(priority="low"))
    (high,) = project.publish({"n": 2}, Publishing(priority="high"))
    assert high.superseded == low.invocations
