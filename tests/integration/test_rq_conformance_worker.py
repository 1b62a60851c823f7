"""Workers: what RQ's documentation says of a worker's life holds for its own and for ours, by the same tests.

https://python-rq.org/docs/workers/
"""

from __future__ import annotations

import os
import signal

import psutil
import pytest
from rq import Retry, Worker
from rq.command import send_shutdown_command
from rq.suspension import resume, suspend

from tests.conftest import until
from tests.integration.plain import Plain


@pytest.fixture(params=["rq", "ours"])
def plain(request, tmp_path, redis_client, redis_server):
    plain = Plain(tmp_path, redis_client, redis_server.url, request.param)
    yield plain
    plain.close()


@pytest.fixture
def ours(tmp_path, redis_client, redis_server):
    plain = Plain(tmp_path, redis_client, redis_server.url, "ours")
    yield plain
    plain.close()


def is_running(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_burst_ends_when_nothing_waits(plain):
    jobs = [plain.queue(name).enqueue("jobs.add", 1, 2) for name in ("mail", "later", "mail")]
    assert plain.start(burst=True).wait(30) == 0
    assert [job.get_status() for job in jobs] == ["finished"] * 3
    assert Worker.all(connection=plain.client) == []


def test_max_jobs_is_how_many_are_run(plain):
    jobs = [plain.queue().enqueue("jobs.add", 1, n) for n in range(3)]
    assert plain.start(max_jobs=2).wait(30) == 0
    assert [job.get_status() for job in jobs] == ["finished", "finished", "queued"]


def test_the_first_signal_lets_what_runs_be_finished(plain):
    job = plain.queue().enqueue("jobs.hold")
    after = plain.queue().enqueue("jobs.add", 1, 2)
    process = plain.start(name="w")
    plain.held()
    process.send_signal(signal.SIGTERM)
    until(lambda: plain.worker("w").shutdown_requested_date)
    plain.go_on()
    assert process.wait(20) == 0
    assert (job.get_status(), after.get_status()) == ("finished", "queued")
    assert Worker.all(connection=plain.client) == []
    assert plain.client.hexists("rq:worker:w", "death")


def test_a_second_signal_ends_the_work_horse_too(plain):
    plain.queue().enqueue("jobs.hold")
    process = plain.start(name="w")
    horse = plain.held()
    process.send_signal(signal.SIGINT)
    until(lambda: plain.worker("w").shutdown_requested_date)
    until(lambda: process.poll() is not None or process.send_signal(signal.SIGINT), every=0.3)
    until(lambda: not is_running(horse))


def test_a_shutdown_command_is_a_first_signal(plain):
    job = plain.queue().enqueue("jobs.hold")
    process = plain.start(name="w")
    plain.held()
    send_shutdown_command(plain.client, "w")
    until(lambda: plain.worker("w").shutdown_requested_date)
    plain.go_on()
    assert process.wait(20) == 0
    assert job.get_status() == "finished"


def test_a_suspended_worker_takes_nothing_until_it_is_resumed(plain):
    held = plain.queue().enqueue("jobs.hold")
    plain.start(name="w")
    plain.held()
    suspend(plain.client)
    job = plain.queue().enqueue("jobs.add", 1, 2)
    plain.go_on()
    plain.ends(held)
    until(lambda: plain.worker("w").get_state() == "suspended")
    assert job.get_status() == "queued"
    resume(plain.client)
    plain.ends(job)


def test_a_worker_has_a_name_once_and_is_registered_with_a_heartbeat(plain):
    process = plain.start(name="w")
    worker = plain.worker("w")
    assert (worker.pid, worker.hostname) == (process.pid, os.uname().nodename)
    assert worker.birth_date <= worker.last_heartbeat
    until(lambda: plain.worker("w").get_state() == "idle")
    assert 0 < plain.client.ttl("rq:worker:w") <= 480
    assert Worker.count(queue=plain.queue()) == 1
    assert plain.start(name="w", burst=True).wait(30) != 0  # there is one of that name


def test_a_job_whose_worker_died_is_tried_again_or_has_failed(ours):
    """RQ's rule for abandoned jobs; with its own worker it takes minutes."""
    job = ours.queue().enqueue("jobs.hold", retry=Retry(max=1))
    ours.start(name="w")
    horse = ours.held()
    psutil.Process(psutil.Process(horse).ppid()).kill()
    until(lambda: not is_running(horse))
    again = ours.held()  # the process is started again, and finds what it had left
    assert again != horse
    assert job.retries_left == 1
    psutil.Process(psutil.Process(again).ppid()).kill()
    ours.ends(job, "failed")
    assert "AbandonedJobError" in job.latest_result().exc_string


def test_a_job_in_hand_is_finished_when_the_worker_is_killed(ours):
    job = ours.queue().enqueue("jobs.hold")
    process = ours.start(name="w")
    horse = ours.held()
    parent = psutil.Process(horse).ppid()
    process.kill()
    process.wait()
    ours.go_on()
    ours.ends(job)
    until(lambda: not is_running(horse) and not is_running(parent))


def test_json_jobs_are_run_where_the_configuration_says_so(tmp_path, redis_client, redis_server):
    plain = Plain(tmp_path, redis_client, redis_server.url, "ours", serializer="json")
    job = plain.queue().enqueue("jobs.add", 1, b=2)
    plain.start(burst=True).wait(30)
    assert job.return_value(refresh=True) == 3
    plain.close()


def test_the_second_of_two_queues_wakes_a_waiting_worker_and_functions_run_beside_a_job(ours):
    from broker import config
    from broker.event import new_event
    from broker.ledger import Ledger, audit
    from broker.publisher import Publisher
    from broker.source import Publishing

    ours.start(name="w")
    until(lambda: ours.worker("w").get_state() == "idle")
    hold = ours.queue("later").enqueue("jobs.hold")
    ours.held()
    publisher = Publisher(config.load(ours.root / "config.toml"), Ledger(ours.client))
    (receipt,) = publisher.publish([new_event(source="q", type="t", data=1)], Publishing())
    until(lambda: ours.client.hget(f"rq:job:{receipt.invocations[0]}", "status") == b"finished")
    ours.go_on()
    ours.ends(hold)
    assert [account.missing for account in audit(ours.client) if account.queue.startswith("f")] == [0]
