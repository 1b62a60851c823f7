"""Batches in the ledger: told in one settlement, and written for each of their invocations."""

from __future__ import annotations

import logging

import pytest

from broker.ledger import Settlement
from broker.worker import outbox
from broker.worker.outbox import Outbox
from tests.integration.flow_driver import Driver


@pytest.fixture
def driver(redis_client):
    driver = Driver(redis_client)
    yield driver
    driver.check()


def batch_of(driver, *ids, queue="f"):
    """Publish and claim a batch; its settlement."""
    driver.publish(*(driver.order(id, queue) for id in ids))
    first, *others = driver.claim(len(ids), queues=(queue,), batch=len(ids)).claimed
    assert {one.execution for one in others} <= {first.execution}
    return Settlement(
        verdict="finished", queue=queue, id=first.id, execution=first.execution, others=tuple(one.id for one in others)
    )


def with_bill(settlement, result=b"", **more):
    fields = {name: getattr(settlement, name) for name in ("verdict", "queue", "id", "execution", "others")}
    return Settlement(**fields, billed_ms=7, megabytes=256, result=result, **more)


@pytest.mark.parametrize("more", [{}, {"result": b"1"}, {"cold": True}])
def test_each_of_a_batch_is_written_on_its_own(driver, redis_client, more):
    """The answers are in the order in which the settlements name the invocations."""
    one, two = batch_of(driver, "a", "b", "c", "d"), batch_of(driver, "x", "y", queue="f.high")
    driver.publish(driver.order("single"))
    (single,) = driver.claim(1).claimed
    redis_client.delete("rq:job:b")
    redis_client.zrem("rq:wip:f", f"d:{one.execution}")
    redis_client.zadd("rq:wip:f", {"d:other.1": "+inf"})
    finished = Settlement(verdict="finished", queue="f", id="single", execution=single.execution)
    answers = driver.ledger.settle("w", [finished, with_bill(one, **more), with_bill(two, **more)])
    assert answers == [True, True, False, True, False, True, True]
    assert redis_client.zrange("rq:wip:f", 0, -1) == [b"d:other.1"]
    assert set(redis_client.zrange("rq:finished:f", 0, -1)) == {b"a", b"c", b"single"}
    assert [redis_client.hget(f"rq:job:{id}", "status") for id in "acdxy"] == [
        b"finished",
        b"finished",
        b"started",
        b"finished",
        b"finished",
    ]
    (usage,) = redis_client.scan_iter("broker:usage:*:f")
    assert redis_client.hmget(usage, "requests", "billed_ms") == [b"2", b"14"]
    assert redis_client.exists("rq:results:c") == ("result" in more)


def test_a_batch_that_another_verdict_is_about_is_written_for_each(driver):
    settlement = batch_of(driver, "a", "b", "c")
    released = Settlement(
        verdict="release", queue="f", id="a", execution=settlement.execution, others=settlement.others
    )
    assert driver.ledger.settle("w", [released]) == [True] * 3
    assert driver.take(3) == ["a", "b", "c"]


def test_batches_are_told_whole_and_those_that_were_refused_by_name(driver, redis_client, monkeypatch, caplog):
    monkeypatch.setattr(outbox, "GROUP", 5)
    box = Outbox(driver.ledger, "w")
    box.settlements = [
        batch_of(driver, *(f"{name}{n}" for n in range(size))) for name, size in (("a", 2), ("b", 3), ("c", 9))
    ]
    redis_client.zrem("rq:wip:f", f"b1:{box.settlements[1].execution}")
    redis_client.zadd("rq:wip:f", {"b1:other.1": "+inf"})
    told = []
    with caplog.at_level(logging.WARNING, "broker.worker"):
        while box:
            told.append([one.id for one in box.answered(driver.ledger.run(box.tell()))])
    assert told == [["a0", "b0"], ["c0"]]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["b1"]
    assert driver.account().finished == 13
