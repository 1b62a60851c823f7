"""Flow control: what the ledger allows of a function, over all workers."""

from __future__ import annotations

import json
import time

import pytest

from broker.function import Batch
from broker.ledger import Ledger, Order, Settlement, Want, audit
from broker.ledger.ledger import job_data


@pytest.fixture
def ledger(redis_client):
    yield Ledger(redis_client)
    assert [account for account in audit(redis_client) if account.missing] == []


def order(id, queue="f", **more):
    return Order(queue=queue, id=id, data=job_data("f", json.dumps({"id": id}).encode()), **more)


def publish(ledger, *orders):
    return [answer for (answer,) in ledger.publish([[one] for one in orders])]


def claim(ledger, n=10, worker="w", *, queues=("f",), interval=0.0, batch=0, concurrency=0):
    of_batch = Batch(size=batch) if batch else None
    want = Want(function="f", queues=queues, most=n, concurrency=concurrency, batch=of_batch, interval=interval)
    return ledger.claim(worker, [want], 1)


def settle(ledger, claimed, verdict="finished", **more):
    (written,) = ledger.settle(
        "w", [Settlement(verdict=verdict, queue=claimed.queue, id=claimed.id, execution=claimed.execution, **more)]
    )
    return written


def pass_time(client, seconds, name="f"):
    """Let the function's next start be due so much earlier."""
    client.set(f"broker:rate:{name}", int(client.get(f"broker:rate:{name}")) - int(seconds * 1e6))


def test_a_rate_allows_one_start_an_interval_whoever_asks_and_says_when_the_next_is_due(ledger, redis_client):
    publish(ledger, *(order(f"i{n}") for n in range(5)))
    assert [one.id for one in claim(ledger, worker="a", interval=600).claimed] == ["i0"]
    answer = claim(ledger, worker="b", interval=600)
    assert answer.claimed == []
    assert 590 < answer.due_in["f"] <= 600
    pass_time(redis_client, 600)
    assert [one.id for one in claim(ledger, worker="b", interval=600).claimed] == ["i1"]
    assert claim(ledger, worker="a", interval=600).claimed == []


def test_a_rate_gives_no_burst_after_a_rest(ledger, redis_client):
    publish(ledger, *(order(f"i{n}") for n in range(5)))
    claim(ledger, interval=600)
    pass_time(redis_client, 6000)
    assert len(claim(ledger, interval=600).claimed) == 1


def test_a_rate_counts_the_starts_of_all_priorities_and_retries_together(ledger, redis_client):
    publish(ledger, order("a", "f.high"), order("b"))
    (first,) = claim(ledger, queues=("f.high", "f"), interval=600).claimed
    assert settle(ledger, first, "retry", failed=True)
    assert claim(ledger, queues=("f.high", "f"), interval=600).claimed == []
    pass_time(redis_client, 600)
    (again,) = claim(ledger, queues=("f.high", "f"), interval=600).claimed
    assert (again.id, again.attempt) == ("a", 2)


def test_a_batch_is_one_start(ledger):
    publish(ledger, *(order(f"i{n}") for n in range(5)))
    assert len(claim(ledger, 3, batch=3, interval=600).claimed) == 3
    assert claim(ledger, 3, batch=2, interval=600).claimed == []


def test_a_high_rate_gives_at_once_what_has_come_together_in_ten_milliseconds_at_most(ledger, redis_client):
    publish(ledger, *(order(f"i{n}") for n in range(500)))
    assert len(claim(ledger, 500, interval=0.0001).claimed) == 1
    time.sleep(0.05)
    assert 1 <= len(claim(ledger, 500, interval=0.0001).claimed) <= 101


def test_a_clock_that_was_set_back_stops_no_function_for_longer_than_an_interval(ledger, redis_client):
    publish(ledger, order("a"))
    redis_client.set("broker:rate:f", int((time.time() + 3600) * 1e6))
    assert len(claim(ledger, interval=600).claimed) == 1


def test_nothing_is_due_while_nothing_waits_or_concurrency_is_what_holds_it_back(ledger, redis_client):
    publish(ledger, order("a"))
    assert claim(ledger, interval=600).due_in == {}
    publish(ledger, order("b"))
    pass_time(redis_client, 600)
    assert claim(ledger, interval=600, concurrency=1).due_in == {}


def test_two_workers_together_keep_to_the_rate(project):
    """Each start is claimed at the moment that the rate allows or later, so the last one tells of all."""
    project.configure(
        """
        import os, time
        def handler(event, context):
            started = time.time()
            time.sleep(0.3)
            return [started, os.getppid()]
        """,
        rate="10/s",
        concurrency=4,
    )
    text = (project.root / "config.toml").read_text()
    (project.root / "config.toml").write_text(text.replace("[broker]", "[broker]\nenvironments = 2"))
    project.worker()
    project.worker()
    begun = time.time()
    ids = project.push(*range(20))
    for id in ids:
        project.ends(id, within=60)
    results = [project.result(id) for id in ids]
    starts = sorted(started for started, _ in results)
    assert all(started >= begun + n * 0.1 - 0.01 for n, started in enumerate(starts))
    assert len({nursery for _, nursery in results}) == 2
    assert all(project.job(id)["attempt"] == "1" for id in ids)


def test_two_workers_take_what_is_urgent_first_and_leave_nothing_behind(project):
    project.configure(
        "def handler(event, context):\n    open('order', 'a').write(event['data'] + '\\n')\n", concurrency=1
    )
    wanted = []
    for priority in ("low", "normal", "high"):
        names = [f"{priority}{n}" for n in range(20)]
        project.push(*names, priority=priority)
        wanted[:0] = names
    workers = [project.worker(), project.worker()]
    from tests.conftest import until

    until(lambda: (project.root / "order").exists() and len((project.root / "order").read_text().split()) == 60)
    assert (project.root / "order").read_text().split() == wanted
    assert len(workers) == 2
