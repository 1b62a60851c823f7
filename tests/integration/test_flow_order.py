"""`order_by`: of each key one at a time, in the order of acceptance, over all workers; other keys go past."""

from __future__ import annotations

import pytest
from rq.job import Job
from rq.registry import DeferredJobRegistry
from rq.serializers import JSONSerializer

from broker.ledger import Settlement
from broker.ledger.values import FULL
from tests.conftest import until
from tests.integration.flow_driver import Driver


@pytest.fixture
def driver(redis_client):
    driver = Driver(redis_client)
    yield driver
    driver.check()


def fetch(driver, id):
    return Job.fetch(id, connection=driver.client, serializer=JSONSerializer)


def three(driver, **more):
    """Publish a1, a2, a3 of one key and b1 of another."""
    driver.publish(
        *(driver.order(f"a{n}", key="a", **more) for n in (1, 2, 3)), driver.order("b1", key="b"), driver.order("free")
    )


def test_of_each_key_one_is_taken_at_a_time_and_others_go_past(driver):
    three(driver)
    first, *others = driver.claim().claimed
    assert [one.id for one in (first, *others)] == ["a1", "b1", "free"]
    assert driver.take() == []
    assert (driver.account().deferred, driver.account().queued) == (2, 0)
    assert driver.settle(first)
    (second,) = driver.claim().claimed
    assert (second.id, second.attempt, second.told) == ("a2", 1, True)
    assert driver.settle(second)
    (third,) = driver.claim().claimed
    assert driver.settle(third)
    assert driver.client.hkeys("broker:turns") == [b"f:b"]


def test_a_retry_that_waits_holds_its_key_back(driver):
    three(driver)
    first, *_ = driver.claim().claimed
    assert driver.settle(first, "retry", delay=600, failed=True)
    assert driver.take() == []
    driver.client.zadd("rq:scheduled:f", {"a1": 1})
    (again,) = driver.claim().claimed
    assert (again.id, again.attempt, again.failures) == ("a1", 2, 1)
    assert driver.settle(again)
    assert driver.take() == ["a2"]


@pytest.mark.parametrize("verdict", ["finished", "dead"])
def test_an_end_whatever_it_is_lets_the_next_go(driver, verdict):
    three(driver)
    first, *_ = driver.claim().claimed
    assert driver.settle(first, verdict)
    assert driver.take() == ["a2"]


def test_a_crash_and_a_release_keep_the_turn(driver):
    three(driver)
    first, *_ = driver.claim(worker="dead").claimed
    driver.ledger.recover(dead=["dead"])
    assert not driver.settle(first)
    again, *_ = driver.claim(1).claimed
    assert again.id == "a1"
    assert driver.settle(again, "release")
    assert driver.take(1) == ["a1"]


def test_a_replayed_dead_letter_stands_in_line_again(driver):
    three(driver)
    first, *_ = driver.claim().claimed
    driver.settle(first, "dead")
    driver.ledger.settle("cli", [Settlement(verdict="replay", queue="f", id="a1")])
    for expected in ("a2", "a3", "a1"):
        (one,) = driver.claim().claimed
        assert one.id == expected
        assert driver.settle(one)


def test_a_dead_letter_that_rq_requeues_stands_in_line_again(driver):
    three(driver)
    first, *_ = driver.claim().claimed
    driver.settle(first, "dead")
    (second,) = driver.claim().claimed
    fetch(driver, "a1").requeue()
    answer = driver.claim()
    assert (answer.claimed, answer.due_in) == ([], {"f": 0})
    assert driver.settle(second)
    assert driver.take() == ["a3"]


def test_a_delayed_one_stands_in_line_when_it_is_due(driver):
    driver.publish(driver.order("late", key="a", delay=600), driver.order("a1", key="a"))
    (first,) = driver.claim().claimed
    assert first.id == "a1"
    driver.client.zadd("rq:scheduled:f", {"late": 1})
    driver.publish(driver.order("a2", key="a"))
    assert driver.take() == []
    assert driver.settle(first)
    (second,) = driver.claim().claimed
    assert second.id == "a2"
    assert driver.settle(second)
    assert driver.take() == ["late"]


def test_priority_decides_between_keys_and_not_within_one(driver):
    queues = ("f.high", "f", "f.low")
    driver.publish(
        driver.order("a1", "f.low", key="a"), driver.order("a2", "f.high", key="a"), driver.order("b1", key="b")
    )
    b1, a1 = driver.claim(queues=queues).claimed
    assert (b1.id, a1.id) == ("b1", "a1")
    assert driver.account("f.high").deferred == 1
    assert driver.settle(a1)
    assert driver.take(queues=queues) == ["a2"]


def test_what_waits_for_its_turn_counts_for_max_queue(driver):
    driver.publish(*(driver.order(f"a{n}", key="a", max_queue=3) for n in range(3)))
    assert driver.publish(driver.order("a3", key="a", max_queue=3)) == [FULL]


def test_rq_sees_what_waits_for_its_turn_as_deferred_and_can_cancel_it(driver):
    three(driver)
    assert fetch(driver, "a2").is_deferred
    assert DeferredJobRegistry("f", connection=driver.client).get_job_ids() == ["a2", "a3"]
    fetch(driver, "a2").cancel()
    first, *_ = driver.claim().claimed
    assert driver.settle(first)
    assert driver.take() == ["a3"]
    assert driver.account().cancelled == 1


def test_the_turn_of_one_that_was_cancelled_while_it_waited_is_passed_on_by_recover(driver):
    three(driver)
    fetch(driver, "a1").cancel()
    assert driver.take() == ["b1", "free"]
    driver.ledger.recover()
    assert driver.take() == ["a2"]


def test_the_turn_of_one_that_was_cancelled_while_it_ran_is_passed_on_when_it_has_ended(driver):
    three(driver)
    first, *_ = driver.claim().claimed
    fetch(driver, "a1").cancel()
    driver.ledger.recover()
    assert driver.take() == []
    assert not driver.settle(first)
    driver.ledger.recover()
    assert driver.take() == ["a2"]


def test_one_whose_record_was_deleted_holds_nobody_up(driver):
    three(driver)
    driver.client.delete("rq:job:a1", "rq:job:a2")
    assert driver.take() == ["b1", "free"]
    driver.ledger.recover()
    assert driver.take() == ["a3"]
    assert driver.account().vanished == 2


def test_any_number_that_was_cancelled_is_skipped(driver):
    ids = [f"a{n}" for n in range(2600)]
    driver.publish(*(driver.order(id, key="a") for id in ids))
    pipeline = driver.client.pipeline()
    for id in ids[1:-1]:  # as Job.cancel does it
        pipeline.hset(f"rq:job:{id}", "status", "canceled").zrem("rq:deferred:f", id).zadd("rq:canceled:f", {id: 1})
    pipeline.execute()
    (first,) = driver.claim().claimed
    assert driver.settle(first)
    for _ in range(3):
        driver.ledger.recover()
    assert driver.take() == [ids[-1]]


def test_every_turn_is_looked_at_however_many_there_are(driver):
    driver.publish(*(driver.order(f"{n}-{k}", key=f"k{k}") for n in (1, 2) for k in range(3000)))
    driver.client.delete("rq:job:1-77")
    driver.take(3000)
    for _ in range(20):
        driver.ledger.recover()
    assert driver.take() == ["2-77"]


CODE = """
    import os, time
    def handler(event, context):
        data = event["data"]
        line = f'{data["customer"]} {data["n"]} {context.attempt}'
        with open("trace", "a") as trace:
            trace.write(f"begin {line} {os.getppid()}\\n")
        time.sleep(0.05)
        with open("trace", "a") as trace:
            trace.write(f"end {line} {os.getppid()}\\n")
        if data["n"] % 7 == 3 and context.attempt == 1:
            raise ValueError("once")
"""


def customers_of(project):
    """Return (begin or end, customer, n, attempt, worker) of each line that the handler wrote."""
    lines = [line.split() for line in (project.root / "trace").read_text().splitlines()]
    return [(what, customer, int(n), int(attempt), worker) for what, customer, n, attempt, worker in lines]


def configure(project):
    retry = {"backoff": "fixed", "base": "20ms", "jitter": False, "attempts": 3}
    project.configure(CODE, order_by="data.customer", retry=retry)
    text = (project.root / "config.toml").read_text()
    (project.root / "config.toml").write_text(text.replace("[broker]", "[broker]\nenvironments = 1"))


def test_two_workers_keep_the_order_of_each_customer_through_failures(project):
    configure(project)
    project.worker()
    project.worker()
    customers = ["ada", "bob", "cyd", "dan"]
    ids = project.push(*({"customer": one, "n": n} for n in range(12) for one in customers))
    for id in ids:
        project.ends(id, within=60)
    lines = customers_of(project)
    for customer in customers:
        mine = [line for line in lines if line[1] == customer]
        assert [line[0] for line in mine] == ["begin", "end"] * (len(mine) // 2)  # one at a time
        runs = [line[2:4] for line in mine[::2]]
        assert runs == [(n, attempt) for n in range(12) for attempt in ((1, 2) if n % 7 == 3 else (1,))]
    assert len({line[4] for line in lines}) == 2
    assert project.client.exists("broker:turns") == 0
    assert project.client.keys("broker:turn:*") == []


def test_a_worker_that_is_killed_does_not_disturb_the_order(project):
    configure(project)
    victim = project.worker()
    project.worker()
    ids = project.push(*({"customer": one, "n": n} for n in (0, 1, 2, 4, 5) for one in ("ada", "bob")))
    until((project.root / "trace").exists, within=30)
    victim.kill()
    for id in ids:
        project.ends(id, within=30)
    for customer in ("ada", "bob"):
        runs = [n for what, name, n, *_ in customers_of(project) if (what, name) == ("end", customer)]
        assert runs == sorted(runs)  # what the victim ran may have run twice, but never after its successor
        assert set(runs) == {0, 1, 2, 4, 5}
