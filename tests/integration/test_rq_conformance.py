"""Plain RQ jobs: what RQ's documentation says of jobs holds with its own worker and with ours, by the same tests.

https://python-rq.org/docs/ (workers, jobs, results, exceptions, scheduling)
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from rq import Callback, Queue, Repeat, Retry
from rq.command import send_kill_horse_command, send_stop_job_command
from rq.job import Dependency

from tests.conftest import PrivateServer, until
from tests.integration.plain import Plain


@pytest.fixture(scope="module", params=["rq", "ours"])
def plain(request, tmp_path_factory):
    """One worker, `w`, for all of these tests: they are about jobs."""
    import redis

    server = PrivateServer()
    with redis.Redis.from_url(server.url) as client:
        plain = Plain(tmp_path_factory.mktemp(request.param), client, server.url, request.param)
        plain.start(name="w")
        yield plain
        plain.close()
    server.close()


@pytest.fixture(autouse=True)
def clean(plain):
    yield
    assert plain.queue().count == plain.queue().started_job_registry.count == 0
    plain.client.delete("called", "notes", "held", "flaky", "again", "never")


def test_a_job_is_run_in_the_workers_folder_and_its_result_is_kept(plain):
    job = plain.queue().enqueue("jobs.add", 1, b=2, result_ttl=77)
    who = plain.queue("later").enqueue("jobs.who")
    assert plain.ends(job).return_value() == 3
    assert plain.ends(who).return_value()[0] == str(plain.root)
    assert who.get_meta() == {"by": "w"}
    assert job.latest_result().worker_name == "w"
    assert job.id in plain.queue().finished_job_registry
    assert 0 < plain.client.ttl(job.key) <= 77


def test_a_result_that_is_not_to_be_kept_is_not(plain):
    job = plain.queue().enqueue("jobs.note", "notes", 1, result_ttl=0)
    until(lambda: plain.client.llen("notes") and not plain.client.exists(job.key))


def test_a_failure_is_kept_with_its_traceback_and_can_be_requeued(plain):
    job = plain.queue().enqueue("jobs.fail", failure_ttl=77)
    plain.ends(job, "failed")
    assert "ValueError: it is broken" in job.latest_result().exc_string
    assert job.id in plain.queue().failed_job_registry
    plain.queue().failed_job_registry.requeue(job.id)
    until(lambda: len(job.results()) == 2)
    plain.ends(job, "failed")


def test_callbacks_are_called(plain):
    calls = {
        "on_success": Callback("jobs.on_success"),
        "on_failure": Callback("jobs.on_failure"),
        "on_stopped": Callback("jobs.on_stopped"),
    }
    good = plain.queue().enqueue("jobs.add", 1, 2, **calls)
    bad = plain.queue().enqueue("jobs.fail", **calls)
    stopped = plain.queue().enqueue("jobs.hold", **calls)
    plain.held()
    send_stop_job_command(plain.client, stopped.id)
    plain.ends(stopped, "stopped")
    assert stopped.id in plain.queue().failed_job_registry
    assert [line.decode() for line in plain.client.lrange("called", 0, -1)] == [
        f"success {good.id} 3",
        f"failure {bad.id} ValueError",
        f"stopped {stopped.id}",
    ]


def test_what_exceeds_its_timeout_fails(plain):
    job = plain.queue().enqueue("jobs.sleep", 30, job_timeout=1)
    plain.ends(job, "failed")
    assert "JobTimeoutException" in job.latest_result().exc_string


def test_a_work_horse_that_dies_is_a_failure_and_the_worker_goes_on(plain):
    dead = plain.queue().enqueue("jobs.die")
    killed = plain.queue().enqueue("jobs.hold")
    plain.held()
    send_kill_horse_command(plain.client, "w")
    for job in (dead, killed):
        assert plain.ends(job, "failed").latest_result().exc_string.startswith("Work-horse terminated unexpectedly")
    assert plain.ends(plain.queue().enqueue("jobs.add", 1, 2)).return_value() == 3


def test_a_failed_job_is_tried_again_as_often_as_it_may_be(plain):
    job = plain.queue().enqueue("jobs.flaky", retry=Retry(max=3))
    assert plain.ends(job).return_value() == "at last"
    assert plain.client.get("flaky") == b"3"
    assert plain.ends(plain.queue().enqueue("jobs.fail", retry=Retry(max=1)), "failed").retries_left == 0


def test_a_retry_after_a_wait_is_scheduled_and_run(plain):
    job = plain.queue().enqueue("jobs.flaky", retry=Retry(max=3, interval=1))
    assert plain.ends(job).return_value() == "at last"


def test_a_job_that_returns_retry_is_run_again_and_fails_when_that_is_used_up(plain):
    job = plain.queue().enqueue("jobs.again", 2)
    never = plain.queue().enqueue("jobs.never")
    assert plain.ends(job).return_value() == "at last"
    plain.ends(never, "failed")
    assert plain.client.get("never") == b"3"


def test_a_job_is_repeated(plain):
    plain.queue().enqueue("jobs.note", "notes", "x", repeat=Repeat(times=2, interval=[0, 1]))
    until(lambda: plain.client.llen("notes") == 3, within=20)
    until(lambda: not (plain.queue().scheduled_job_registry.count or plain.queue().started_job_registry.count))
    assert plain.client.llen("notes") == 3


def test_a_job_is_run_when_it_is_due(plain):
    job = plain.queue().enqueue_in(timedelta(seconds=1), "jobs.add", 1, 2)
    assert job.get_status() == "scheduled"
    assert plain.ends(job).return_value() == 3


def test_dependents_follow_and_do_not_when_what_they_depend_on_failed(plain):
    hold = plain.queue().enqueue("jobs.hold")
    first = plain.queue().enqueue("jobs.add", 1, 2)
    second = plain.queue("later").enqueue("jobs.add", 3, 4, depends_on=first)
    bad = plain.queue().enqueue("jobs.fail")
    never = plain.queue().enqueue("jobs.add", 5, 6, depends_on=bad)
    anyway = plain.queue().enqueue("jobs.add", 7, 8, depends_on=Dependency(jobs=[bad], allow_failure=True))
    assert [job.get_status() for job in (second, never, anyway)] == ["deferred"] * 3
    plain.held()
    plain.go_on()
    assert plain.ends(second).return_value() == 7
    assert plain.ends(anyway).return_value() == 15
    assert (hold.get_status(), never.get_status()) == ("finished", "deferred")


def test_the_first_queue_goes_first_and_a_job_can_be_put_in_front(plain):
    plain.queue("later").enqueue("jobs.hold")
    plain.held()
    for queue, value, in_front in (
        ("later", "d", False),
        ("later", "c", True),
        ("mail", "a", False),
        ("mail", "b", False),
    ):
        plain.queue(queue).enqueue("jobs.note", "notes", value, at_front=in_front)
    plain.go_on()
    until(lambda: plain.client.lrange("notes", 0, -1) == [b"a", b"b", b"c", b"d"])
    until(lambda: plain.queue("later").started_job_registry.count == 0)


def test_what_is_cancelled_or_deleted_does_not_run(plain):
    plain.queue().enqueue("jobs.hold")
    plain.held()
    jobs = [plain.queue().enqueue("jobs.note", "notes", name) for name in ("a", "b", "c")]
    jobs[0].cancel()
    jobs[1].delete()
    plain.go_on()
    plain.ends(jobs[2])
    assert plain.client.lrange("notes", 0, -1) == [b"c"]
    assert jobs[0].id in plain.queue().canceled_job_registry


def test_rqs_tools_see_the_worker_and_what_it_does(plain):
    assert set(plain.worker("w").queue_names()) >= {"mail", "later"}
    until(lambda: plain.worker("w").get_state() == "idle")
    before = plain.worker("w")
    plain.ends(plain.queue().enqueue("jobs.fail"), "failed")
    job = plain.queue().enqueue("jobs.hold")
    plain.held()
    until(lambda: plain.worker("w").get_state() == "busy")
    assert plain.worker("w").get_current_job_id() == job.id
    assert [one.job_id for one in plain.worker("w").get_current_executions()] == [job.id]
    assert job.id in plain.queue().started_job_registry
    plain.go_on()
    plain.ends(job)
    until(lambda: plain.worker("w").get_state() == "idle")
    after = plain.worker("w")
    assert after.get_current_job_id() is None
    assert after.successful_job_count == before.successful_job_count + 1
    assert after.failed_job_count == before.failed_job_count + 1
    assert after.total_working_time > before.total_working_time
    assert Queue("mail", connection=plain.client) in Queue.all(connection=plain.client)


def test_jobs_of_one_kind_run_as_often_as_their_rate_limit_allows(plain):
    from rq.rate_limit import RateLimit

    jobs = [plain.queue().enqueue("jobs.add", 1, n, rate_limit=RateLimit(key="one", concurrency=1)) for n in range(3)]
    assert [plain.ends(job).return_value() for job in jobs] == [1, 2, 3]
