"""Keys of RQ that another program has made something else of: a script fails before it has written anything."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from redis.exceptions import ResponseError

from broker.ledger import Settlement, Want
from tests.integration.flow_driver import Driver

PLACES = ("queue", "wip", "finished", "failed", "scheduled", "deferred", "canceled")


@pytest.fixture
def driver(redis_client):
    driver = Driver(redis_client)
    yield driver
    driver.check()


@contextmanager
def foreign(client, key):
    """Let a key be another program's for a moment."""
    if client.exists(key):
        client.rename(key, "saved")
    client.set(key, "something else")
    yield
    client.delete(key)
    if client.exists("saved"):
        client.rename("saved", key)


def fails(what, *arguments, **named):
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        what(*arguments, **named)


def settlement(claimed, verdict="finished", **more):
    return Settlement(verdict=verdict, queue=claimed.queue, id=claimed.id, execution=claimed.execution, **more)


@pytest.mark.parametrize("queue", ["f", "f.high"])
@pytest.mark.parametrize("place", PLACES)
def test_settle_writes_nothing(driver, redis_client, place, queue):
    ways = {"finished": {}, "dead": {}, "retry": {"delay": 60}, "release": {}}
    for lane in ("f.high", "f"):
        driver.publish(*(driver.order(f"{lane}-{n}", lane) for n in range(1 + len(ways))))
    claimed = driver.claim(20, queues=("f.high", "f")).claimed
    settlements = []
    for first in (0, 5):
        rows = zip(claimed[first : first + 5], [*ways, "finished"], strict=True)
        settlements += [settlement(one, verdict, **ways[verdict]) for one, verdict in rows]
    settlements[4] = settlement(claimed[4], result=b"1", orders=(driver.order("next", queue),))
    with foreign(redis_client, f"rq:{place}:{queue}"):
        fails(driver.ledger.settle, "w", settlements)
    assert {redis_client.hget(f"rq:job:{one.id}", "status") for one in claimed} == {b"started"}
    driver.check()
    assert all(driver.ledger.settle("w", settlements))


@pytest.mark.parametrize("place", ["queue", "wip", "scheduled", "deferred"])
def test_publish_takes_nothing_on(driver, redis_client, place):
    driver.ledger.recover(worker="w", lease=60)
    offering = Want(function="f", queues=("f",), most=1, offer=7)
    driver.ledger.claim("w", [offering], 7)
    orders = [driver.order("b", "f.high"), driver.order("a")]
    pubsub = redis_client.pubsub()
    pubsub.subscribe("broker:handed:w")
    pubsub.get_message(timeout=5)
    with foreign(redis_client, f"rq:{place}:f"):
        fails(driver.publish, *orders)
    assert redis_client.exists("rq:job:a", "rq:job:b") == 0
    driver.check()
    assert driver.publish(*orders) == [1, 1]
    pubsub.close()


@pytest.mark.parametrize("place", ["queue", "wip", "scheduled"])
@pytest.mark.parametrize("due", [False, True])
def test_claim_loses_nothing(driver, redis_client, place, due):
    driver.publish(driver.order("a", "f.high"))
    driver.publish(driver.order("b"), driver.order("c", delay=60))
    if due:
        redis_client.zadd("rq:scheduled:f", {"c": 1})
    with foreign(redis_client, f"rq:{place}:f"):
        fails(driver.take, queues=("f.high", "f"))
    assert [one.missing for one in driver.accounts()] == [0, 0]
    driver.ledger.recover(dead=["w"])
    assert sorted(driver.take(queues=("f.high", "f"))) == ["a", "b", *(["c"] if due else [])]


@pytest.mark.parametrize("place", ["queue", "wip"])
def test_recover_takes_nothing_back(driver, redis_client, place):
    driver.publish(driver.order("a", "f.high"), driver.order("b"), driver.order("c", "f.low"))
    assert len(driver.take(queues=("f.high", "f", "f.low"))) == 3
    with foreign(redis_client, f"rq:{place}:f"):
        fails(driver.ledger.recover, dead=["w"])
    driver.check()
    assert {id for _, id, _ in driver.ledger.recover(dead=["w"]).recovered} == {"a", "b", "c"}


def test_a_record_that_is_something_else_takes_no_other_with_it(driver, redis_client):
    """It counts as vanished, as a record that was deleted does."""

    def spoil(id):
        redis_client.delete(f"rq:job:{id}")
        redis_client.set(f"rq:job:{id}", "something else")

    driver.publish(*(driver.order(id) for id in "abcdefgh"))
    spoil("b")
    claimed = {one.id: one for one in driver.claim(8).claimed}
    assert sorted(claimed) == list("acdefgh")
    for id in "ceg":
        spoil(id)
    told = [settlement(claimed[id]) for id in "ac"] + [settlement(claimed[id], result=b"1") for id in "de"]
    assert driver.ledger.settle("w", told) == [True, False, True, False]
    assert [id for _, id, _ in driver.ledger.recover(dead=["w"]).recovered] == ["f", "h"]
    account = driver.account()
    assert (account.finished, account.vanished, account.queued) == (2, 4, 2)
    assert redis_client.get("rq:job:c") == b"something else"
    redis_client.delete(*(f"rq:job:{id}" for id in "bceg"))
