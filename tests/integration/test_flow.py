"""Flow control: what the ledger allows of a function, over all workers."""

from __future__ import annotations

import threading
import time

import pytest

from broker.errors import QueueFull
from broker.event import new_event
from tests.conftest import until
from tests.integration.flow_driver import Driver


@pytest.fixture
def driver(redis_client):
    driver = Driver(redis_client)
    yield driver
    driver.check()


def pass_time(client, seconds, name="f"):
    """Let the function's next start be due so much earlier."""
    client.set(f"broker:rate:{name}", int(client.get(f"broker:rate:{name}")) - int(seconds * 1e6))


def test_a_rate_allows_one_start_an_interval_whoever_asks_and_says_when_the_next_is_due(driver, redis_client):
    driver.publish(*(driver.order(f"i{n}") for n in range(5)))
    assert [one.id for one in driver.claim(worker="a", interval=600).claimed] == ["i0"]
    answer = driver.claim(worker="b", interval=600)
    assert answer.claimed == []
    assert 590 < answer.due_in["f"] <= 600
    pass_time(redis_client, 600)
    assert [one.id for one in driver.claim(worker="b", interval=600).claimed] == ["i1"]
    assert driver.claim(worker="a", interval=600).claimed == []


def test_a_rate_gives_no_burst_after_a_rest(driver, redis_client):
    driver.publish(*(driver.order(f"i{n}") for n in range(5)))
    driver.claim(interval=600)
    pass_time(redis_client, 6000)
    assert len(driver.claim(interval=600).claimed) == 1


def test_a_rate_counts_the_starts_of_all_priorities_and_retries_together(driver, redis_client):
    driver.publish(driver.order("a", "f.high"), driver.order("b"))
    (first,) = driver.claim(queues=("f.high", "f"), interval=600).claimed
    assert driver.settle(first, "retry", failed=True)
    assert driver.claim(queues=("f.high", "f"), interval=600).claimed == []
    pass_time(redis_client, 600)
    (again,) = driver.claim(queues=("f.high", "f"), interval=600).claimed
    assert (again.id, again.attempt) == ("a", 2)


def test_a_batch_is_one_start(driver):
    driver.publish(*(driver.order(f"i{n}") for n in range(5)))
    assert len(driver.claim(3, batch=3, interval=600).claimed) == 3
    assert driver.claim(3, batch=2, interval=600).claimed == []


def test_a_high_rate_gives_at_once_what_has_come_together_in_ten_milliseconds_at_most(driver, redis_client):
    driver.publish(*(driver.order(f"i{n}") for n in range(500)))
    assert len(driver.claim(500, interval=0.0001).claimed) == 1
    time.sleep(0.05)
    assert 1 <= len(driver.claim(500, interval=0.0001).claimed) <= 101


def test_a_clock_that_was_set_back_stops_no_function_for_longer_than_an_interval(driver, redis_client):
    driver.publish(driver.order("a"))
    redis_client.set("broker:rate:f", int((time.time() + 3600) * 1e6))
    assert len(driver.claim(interval=600).claimed) == 1


def test_nothing_is_due_while_nothing_waits_or_concurrency_is_what_holds_it_back(driver, redis_client):
    driver.publish(driver.order("a"))
    assert driver.claim(interval=600).due_in == {}
    driver.publish(driver.order("b"))
    pass_time(redis_client, 600)
    assert driver.claim(interval=600, concurrency=1).due_in == {}


def limit_environments(project):
    """Let a worker run one at a time, so that none can do it all alone."""
    text = (project.root / "config.toml").read_text()
    (project.root / "config.toml").write_text(text.replace("[broker]", "[broker]\nenvironments = 1"))


def test_three_workers_together_keep_to_the_rate(project):
    """Each start is claimed at the moment that the rate allows or later, so the last one tells of all."""
    project.configure(
        """
        import os, time
        def handler(event, context):
            started = time.time()
            time.sleep(0.2)
            return [started, os.getppid()]
        """,
        rate="10/s",
    )
    limit_environments(project)
    for _ in range(3):
        project.worker()
    begun = time.time()
    ids = project.push(*range(20))
    for id in ids:
        project.ends(id, within=60)
    results = [project.result(id) for id in ids]
    starts = sorted(started for started, _ in results)
    assert all(started >= begun + n * 0.1 - 0.01 for n, started in enumerate(starts))
    assert len({nursery for _, nursery in results}) >= 2
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
    until(lambda: (project.root / "order").exists() and len((project.root / "order").read_text().split()) == 60)
    assert (project.root / "order").read_text().split() == wanted
    assert len(workers) == 2


def test_three_workers_together_keep_to_the_concurrency(project):
    project.configure(
        """
        import os, time
        def handler(event, context):
            path = f"running.{os.getpid()}"
            open(path, "w").close()
            seen = len([name for name in os.listdir() if name.startswith("running.")])
            time.sleep(0.1)
            os.remove(path)
            return [seen, os.getppid()]
        """,
        concurrency=2,
    )
    limit_environments(project)
    for _ in range(3):
        project.worker()
    ids = project.push(*range(20))
    for id in ids:
        project.ends(id, within=60)
    results = [project.result(id) for id in ids]
    assert {seen for seen, _ in results} <= {1, 2}
    assert len({nursery for _, nursery in results}) >= 2


def test_two_workers_run_nothing_that_is_too_old_and_all_that_is_not(project):
    project.configure("def handler(event, context):\n    return event['data']\n", max_age="1h")
    old = project.push(*range(10))
    new = project.push(*range(10))
    for id in old:
        project.client.hincrby(f"rq:job:{id}", "at", -7_200_000)
    project.worker()
    project.worker()
    for id in old:
        assert project.ends(id, "failed")["reason"] == "Expired"
    assert [project.ends(id)["attempt"] for id in new] == ["1"] * 10


def test_a_queue_that_two_publishers_fill_and_two_workers_empty_never_holds_more_than_max_queue(project):
    project.configure("def handler(event, context):\n    return event['data']\n", max_queue=5)
    project.worker()
    project.worker()
    watched, over = project.client, []
    accepted: list[str] = []
    refused = []

    def fill(publisher):
        for n in range(60):
            event = new_event(source="q", type="queue.message", data=n)
            try:
                (receipt,) = publisher.publish([event])
            except QueueFull:
                refused.append(event.id)
            else:
                accepted.extend(receipt.invocations)
            over.extend(waiting for waiting in [watched.llen("rq:queue:f")] if waiting > 5)

    threads = [threading.Thread(target=fill, args=[project.publisher]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for id in accepted:
        project.ends(id)
    assert over == []
    assert len(accepted) + len(refused) == 120
    assert project.client.hget("broker:books:f", "accepted") == str(len(accepted)).encode()
