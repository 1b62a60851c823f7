"""The ledger against a real server: each move of an invocation, and the books after it."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from broker.errors import StoreUnavailable
from broker.function import Batch
from broker.ledger import Ledger, Order, Settlement, Want, audit
from broker.ledger.jobs import job_data
from broker.ledger.ledger import WAKE
from broker.ledger.values import ACCEPTED, DUPLICATE, FULL
from broker.quantity import Duration
from tests.conftest import until


@pytest.fixture
def ledger(redis_client):
    return Ledger(redis_client)


@pytest.fixture(autouse=True)
def books_balance(redis_client):
    yield
    assert [account for account in audit(redis_client) if account.missing] == []


def order(id, queue="f", **more):
    return Order(queue=queue, id=id, data=job_data("f", json.dumps({"id": id}).encode()), **more)


def publish(ledger, *orders):
    return [answer for (answer,) in ledger.publish([[one] for one in orders])]


def claim(ledger, n=10, queue="f", *, worker="w", concurrency=0, batch=0, window=0):
    of_batch = Batch(size=batch, window=Duration(window / 1000)) if batch else None
    function = queue.partition(".")[0]
    want = Want(function=function, queues=(queue,), most=n, concurrency=concurrency, batch=of_batch)
    return ledger.claim(worker, [want], 1)


def account(client, queue="f"):
    return next(one for one in audit(client) if one.queue == queue)


def settle(ledger, claimed, verdict="finished", worker="w", **more):
    return ledger.settle(
        worker, [Settlement(verdict=verdict, queue=claimed.queue, id=claimed.id, execution=claimed.execution, **more)]
    )


def test_what_is_published_is_claimed_once_and_in_order(ledger, redis_client):
    assert publish(ledger, order("a"), order("b"), order("c")) == [ACCEPTED] * 3
    assert [one.id for one in claim(ledger, 2).claimed] == ["a", "b"]
    (last,) = claim(ledger, 2).claimed
    assert (last.id, last.attempt, last.event) == ("c", 1, b'{"id": "c"}')
    assert claim(ledger).claimed == []
    assert account(redis_client).leased == 3


def test_an_id_that_has_a_record_is_refused_also_within_one_call(ledger, redis_client):
    assert publish(ledger, order("a"), order("a")) == [ACCEPTED, DUPLICATE]
    (claimed,) = claim(ledger).claimed
    settle(ledger, claimed)
    assert publish(ledger, order("a")) == [DUPLICATE]
    assert account(redis_client).accepted == 1


def test_an_event_is_accepted_for_all_its_functions_or_for_none(ledger, redis_client):
    publish(ledger, order("x", "full"))
    answers = ledger.publish([[order("a", "f"), order("b", "full", max_queue=1)], [order("c", "f")]])
    assert answers == [[FULL, FULL], [ACCEPTED]]
    assert account(redis_client, "full").queued == 1
    assert account(redis_client).queued == 1


def test_a_delayed_invocation_waits_and_says_how_long(ledger, redis_client):
    publish(ledger, order("a", delay=60))
    answer = claim(ledger)
    assert answer.claimed == []
    assert 59 < answer.due_in["f"] <= 60
    assert account(redis_client).scheduled == 1


def test_a_retry_that_is_due_is_claimed_with_its_numbers(ledger):
    publish(ledger, order("a"))
    (first,) = claim(ledger).claimed
    assert settle(ledger, first, "retry", failed=True, reason="TimedOut") == [True]
    (second,) = claim(ledger).claimed
    assert (second.attempt, second.failures, second.crashes) == (2, 1, 0)


def test_rq_reads_a_finished_invocation_and_its_result(ledger, redis_client):
    publish(ledger, order("a"))
    job = Job.fetch("a", connection=redis_client, serializer=JSONSerializer)
    assert job.get_status() == "queued"
    assert (job.func_name, job.args) == ("broker.invoke", ["f", {"id": "a"}])
    (claimed,) = claim(ledger).claimed
    assert job.get_status() == "started"
    settle(ledger, claimed, result=b'{"size":12}')
    assert job.get_status() == "finished"
    assert job.return_value() == {"size": 12}
    assert redis_client.ttl("rq:job:a") > 3000


def test_rq_reads_a_dead_letter_and_can_requeue_it(ledger, redis_client):
    publish(ledger, order("a"))
    (claimed,) = claim(ledger).claimed
    settle(ledger, claimed, "dead", traceback="ValueError: no", reason="HandlerFailed")
    job = Job.fetch("a", connection=redis_client, serializer=JSONSerializer)
    assert job.is_failed
    assert job.latest_result().exc_string == "ValueError: no"
    assert job.failed_job_registry.get_job_ids() == ["a"]
    job.requeue()
    (again,) = claim(ledger).claimed
    assert (again.attempt, json.loads(again.event)) == (2, {"id": "a"})


def test_a_job_that_rq_cancels_is_never_claimed(ledger, redis_client):
    publish(ledger, order("a"), order("b"))
    Job.fetch("a", connection=redis_client, serializer=JSONSerializer).cancel()
    assert [one.id for one in claim(ledger).claimed] == ["b"]
    assert account(redis_client).cancelled == 1


def test_a_worker_whose_lease_has_passed_to_another_changes_nothing(ledger, redis_client):
    publish(ledger, order("a"))
    (old,) = claim(ledger, worker="old").claimed
    assert ledger.recover(dead=["old"]).recovered == [("f", "a", 1)]
    (new,) = claim(ledger, worker="new").claimed
    assert (new.attempt, new.crashes) == (2, 1)
    assert settle(ledger, old, worker="old") == [False]
    assert account(redis_client).leased == 1
    assert settle(ledger, new, worker="new") == [True]
    assert account(redis_client).finished == 1


def test_an_expired_lease_is_taken_back_and_a_renewed_one_is_not(ledger, redis_client):
    ledger.recover(worker="dead", lease=-1)
    ledger.recover(worker="alive", lease=60)
    publish(ledger, order("a"), order("b"))
    claim(ledger, 1, worker="dead")
    claim(ledger, 1, worker="alive")
    ledger.recover(worker="dead", lease=-1)  # its own beat takes it back
    assert (
        ledger.recover(worker="alive", lease=60).recovered == []
    )  # the first call took it back, the dead worker's own beat
    assert [one.id for one in claim(ledger, worker="alive").claimed] == ["a"]
    assert redis_client.zrange("broker:workers", 0, -1) == [b"alive"]


def test_when_nobody_could_renew_a_lease_nobody_is_taken_for_dead(ledger, redis_client):
    for worker in ("a", "b"):
        ledger.recover(worker=worker, lease=0.4)
    publish(ledger, order("x"))
    claim(ledger, worker="a")
    until(lambda: redis_client.zcount("broker:workers", "-inf", ms(redis_client)) == 2)
    assert ledger.recover(worker="b", lease=0.4).recovered == []  # Redis was away, say
    until(lambda: ledger.recover(worker="b", lease=0.4).recovered == [("f", "x", 1)])  # and now only b has renewed its


def test_a_clock_that_is_put_back_does_not_keep_the_leases_of_the_dead(ledger, redis_client):
    redis_client.zadd("broker:workers", {"dead": ms(redis_client) + 3_600_000})
    publish(ledger, order("x"))
    claim(ledger, worker="dead")
    ledger.recover(worker="alive", lease=0.4)
    until(lambda: ledger.recover(worker="alive", lease=0.4).recovered == [("f", "x", 1)])


def test_a_redis_whose_memory_is_full_takes_nothing_on_and_what_it_has_is_run(ledger, redis_client):
    ledger.recover(worker="dead", lease=0.4)
    publish(ledger, order("x"), order("y"))
    claim(ledger, 1, worker="dead")
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            publish(ledger, order("z"))
        until(lambda: ledger.recover(worker="alive", lease=0.4).recovered == [("f", "x", 1)])
        for one in claim(ledger, worker="alive").claimed:
            assert ledger.settle("alive", [settlement_of(one)], [("f", b"[]")]) == [True]
        assert ledger.settle("alive", [], [("f", b"[]")]) == []
    finally:
        redis_client.config_set("maxmemory", 0)
    assert (account(redis_client).finished, account(redis_client).queued) == (2, 0)
    assert redis_client.xlen("broker:logs:f") == 3


def test_nothing_is_claimed_from_the_moment_on_at_which_rq_suspends_workers(ledger, redis_client):
    publish(ledger, order("x"))
    suspend(redis_client)
    assert claim(ledger).claimed == []
    resume(redis_client)
    assert [one.id for one in claim(ledger).claimed] == ["x"]


def test_a_worker_whose_clock_is_wrong_knows_how_old_an_invocation_is(ledger, redis_client, monkeypatch):
    publish(ledger, order("x"))
    monkeypatch.setattr("broker.ledger.calls.time", SimpleNamespace(time=lambda: time.time() + 3600))
    (claimed,) = claim(ledger).claimed
    age = time.time() + 3600 - claimed.accepted_ms / 1000
    assert 0 <= age < 60


def ms(client):
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000


def settlement_of(claimed, verdict="finished"):
    return Settlement(verdict=verdict, queue=claimed.queue, id=claimed.id, execution=claimed.execution)


def test_only_what_really_ran_counts_as_crashed_again(ledger):
    publish(ledger, order("a"))
    crashes = []
    for really_runs in (False, False, True, True):
        (claimed,) = claim(ledger).claimed
        if really_runs:
            ledger.mark_running(claimed)
        ((_, _, count),) = ledger.recover(dead=["w"]).recovered
        crashes.append(count)
    assert crashes == [1, 1, 2, 3]


def test_a_released_invocation_is_first_again_and_was_not_tried(ledger):
    publish(ledger, order("a"), order("b"))
    (claimed,) = claim(ledger, 1).claimed
    settle(ledger, claimed, "release")
    assert [(one.id, one.attempt) for one in claim(ledger).claimed] == [("a", 1), ("b", 1)]


def test_concurrency_counts_the_leases_of_all_workers_and_priorities(ledger):
    publish(ledger, *(order(str(n)) for n in range(5)))
    publish(ledger, order("h", "f.high"))
    assert len(claim(ledger, 1, "f.high", worker="v", concurrency=3).claimed) == 1
    assert len(claim(ledger, 5, worker="w", concurrency=3).claimed) == 2
    assert claim(ledger, 5, worker="x", concurrency=3).claimed == []


def test_a_batch_waits_until_it_is_full_or_its_window_is_over(ledger):
    publish(ledger, order("a"))
    waiting = claim(ledger, 2, batch=2, window=60_000)
    assert waiting.claimed == []
    assert 59 < waiting.due_in["f"] <= 60
    publish(ledger, order("b"))
    assert len(claim(ledger, 2, batch=2, window=60_000).claimed) == 2
    publish(ledger, order("c"))
    assert len(claim(ledger, 2, batch=2, window=0).claimed) == 1


def test_a_tracked_event_is_reported_when_its_last_invocation_has_ended(ledger, redis_client):
    ledger.publish([[order("a", track="inbox", event="e1"), order("b", track="inbox", event="e1")]])
    first, second = claim(ledger).claimed
    settle(ledger, first, told=True)
    assert redis_client.llen("broker:ended:inbox") == 0
    assert redis_client.hlen("broker:open:inbox") == 1
    settle(ledger, second, "dead")
    assert redis_client.lrange("broker:ended:inbox", 0, -1) == [b"1\ne1"]
    assert redis_client.hlen("broker:open:inbox") == 0


def test_a_tracked_event_ends_when_another_tool_takes_its_invocation_away(ledger, redis_client):
    ids = ("cancelled", "deleted", "runs", "waits")
    ledger.publish([[order(id, track="s", event=id)] for id in ids])
    Job.fetch("cancelled", connection=redis_client, serializer=JSONSerializer).cancel()
    redis_client.delete("rq:job:deleted")
    (running,) = claim(ledger, 2).claimed
    Job.fetch("runs", connection=redis_client, serializer=JSONSerializer).cancel()
    ledger.recover()
    assert sorted(redis_client.lrange("broker:ended:s", 0, -1)) == [b"1\ncancelled", b"1\ndeleted"]
    assert settle(ledger, running) == [False]  # a cancelled attempt goes on until it ends
    ledger.recover()
    assert redis_client.lrange("broker:ended:s", 2, -1) == [b"1\nruns"]
    assert redis_client.hkeys("broker:open:s") == redis_client.hkeys("broker:tracked") == [b"waits"]


def test_a_tracked_event_ends_once_though_its_dead_letter_runs_again(ledger, redis_client):
    ledger.publish([[order("a", track="s", event="e")]])
    (claimed,) = claim(ledger).claimed
    settle(ledger, claimed, "dead")
    Job.fetch("a", connection=redis_client, serializer=JSONSerializer).requeue()
    (again,) = claim(ledger).claimed
    settle(ledger, again, told=again.told)
    assert redis_client.lrange("broker:ended:s", 0, -1) == [b"1\ne"]


def test_a_waiting_publisher_hears_the_result(ledger, redis_client):
    ears = redis_client.pubsub(ignore_subscribe_messages=True)
    ears.subscribe("me")
    ears.get_message(timeout=1)
    publish(ledger, order("a", reply="me"))
    (claimed,) = claim(ledger).claimed
    assert claimed.told
    settle(ledger, claimed, result=b"[1]", told=True)
    assert ears.get_message(timeout=30)["data"] == b"a\n1\n[1]"
    ears.close()


def test_the_bell_rings_when_something_begins_to_wait(ledger, redis_client):
    ears = redis_client.pubsub(ignore_subscribe_messages=True)
    ears.subscribe(WAKE)
    ears.get_message(timeout=1)
    publish(ledger, order("a"), order("b"))
    publish(ledger, order("c"))
    assert ears.get_message(timeout=30)["data"] == b"f"
    assert ears.get_message(timeout=0.05) is None
    ears.close()


def test_a_destination_is_taken_on_with_the_end_of_its_cause_or_not_at_all(ledger, redis_client):
    publish(ledger, order("a"))
    (claimed,) = claim(ledger).claimed
    follow = Order(queue="g", id="after-a", data=job_data("g", b"{}"))
    assert settle(ledger, claimed, orders=(follow,)) == [True]
    assert settle(ledger, claimed, orders=(order("again"),)) == [False]
    assert account(redis_client, "g").queued == 1
    assert account(redis_client).queued == 0


def test_a_dead_letter_is_replayed_or_dropped_once(ledger, redis_client):
    publish(ledger, order("a"), order("b"))
    for claimed in claim(ledger).claimed:
        settle(ledger, claimed, "dead")
    replay, drop = (Settlement(verdict=v, queue="f", id=i) for v, i in (("replay", "a"), ("drop", "b")))
    assert ledger.settle("cli", [replay, drop, replay, drop]) == [True, True, False, False]
    assert account(redis_client).dropped == 1
    assert [one.id for one in claim(ledger).claimed] == ["a"]


def test_a_job_deleted_while_it_waits_or_runs_is_booked_as_vanished(ledger, redis_client):
    publish(ledger, order("a"), order("b"))
    (claimed,) = claim(ledger, 1).claimed
    redis_client.delete("rq:job:a", "rq:job:b")
    assert claim(ledger).claimed == []
    assert settle(ledger, claimed) == [False]
    assert account(redis_client).vanished == 2


def test_usage_is_counted_by_function_and_day(ledger, redis_client):
    publish(ledger, order("a"), order("h", "f.high"))
    (one,) = claim(ledger).claimed
    (two,) = claim(ledger, queue="f.high").claimed
    settle(ledger, one, billed_ms=10, megabytes=256, cold=True)
    settle(ledger, two, "retry", billed_ms=5, megabytes=256, failed=True, delay=60)
    (key,) = redis_client.keys("broker:usage:*")
    assert key.endswith(b":f")
    sums = {field: int(value) for field, value in redis_client.hgetall(key).items()}
    assert sums == {b"requests": 2, b"errors": 1, b"billed_ms": 15, b"mb_ms": 3840, b"cold_starts": 1}


def test_a_server_that_is_full_or_gone_is_told_as_unavailable(ledger, redis_client):
    redis_client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable):
            publish(ledger, order("a"))
    finally:
        redis_client.config_set("maxmemory", "0")
    nowhere = Ledger(redis.Redis(unix_socket_path="/nowhere", retry=Retry(NoBackoff(), 0)))
    with pytest.raises(StoreUnavailable):
        publish(nowhere, order("a"))


def test_concurrency_of_batches_counts_batches(ledger):
    publish(ledger, *(order(str(n)) for n in range(7)))
    assert len(claim(ledger, 3, concurrency=2, batch=3).claimed) == 3
    assert len(claim(ledger, 3, worker="v", concurrency=2, batch=3).claimed) == 3
    assert claim(ledger, 3, worker="x", concurrency=2, batch=3).claimed == []


def test_a_replayed_invocation_that_ends_well_leaves_nothing_that_never_expires(ledger, redis_client):
    publish(ledger, order("a"))
    (claimed,) = claim(ledger).claimed
    settle(ledger, claimed, "dead", traceback="ValueError: no")
    ledger.settle("cli", [Settlement(verdict="replay", queue="f", id="a")])
    (claimed,) = claim(ledger).claimed
    settle(ledger, claimed, result=b"null", again=True)
    assert [key for key in redis_client.keys("rq:*:a") if redis_client.ttl(key) < 0] == []


def test_a_stopped_invocation_has_rqs_status_for_it(ledger, redis_client):
    publish(ledger, order("a"))
    (claimed,) = claim(ledger).claimed
    settle(ledger, claimed, "dead", stopped=True, reason="Stopped")
    assert Job.fetch("a", connection=redis_client, serializer=JSONSerializer).is_stopped


def test_recovery_leaves_the_queues_of_other_programs_alone(ledger, redis_client):
    from rq import Queue

    job = Queue("theirs", connection=redis_client).enqueue("print", 1)
    redis_client.lpop("rq:queue:theirs")
    job.set_status("started")
    redis_client.zadd("rq:wip:theirs", {f"{job.id}:x": 1})
    assert ledger.recover(dead=["x"]).recovered == []
    assert (redis_client.llen("rq:queue:theirs"), redis_client.zcard("rq:wip:theirs")) == (0, 1)
    redis_client.delete("rq:wip:theirs")  # their queue has no books that could balance
