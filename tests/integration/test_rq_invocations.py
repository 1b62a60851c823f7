"""Invocations of ours, through RQ's own classes and commands: what its documentation says of jobs and workers holds."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest
from rq import Queue, Worker, cancel_job
from rq.command import send_kill_horse_command, send_shutdown_command, send_stop_execution_command
from rq.exceptions import InvalidJobOperation
from rq.job import Job
from rq.registry import (
    CanceledJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.suspension import resume, suspend

from broker.ledger import audit
from tests.conftest import until
from tests.integration.plain import OURS

CODE = """
import os, time
from pathlib import Path
def handler(event, context):
    data = event["data"]
    if data == "bad" and not Path("good").exists():
        raise ValueError("it is broken")
    if data == "hold":
        Path("held").write_text(str(os.getpid()))
        while not Path("go").exists():
            time.sleep(0.005)
    return data
"""


def fetch(project, id):
    return Job.fetch(id, connection=project.client, serializer="json")


def queue(project):
    return Queue("f", connection=project.client, serializer="json")


def registry(kind, project):
    return kind(queue=queue(project))


def worker(project, name="w"):
    return next(one for one in Worker.all(connection=project.client) if one.name == name)


def held(project):
    until((project.root / "held").exists)


def run(project, *, burst=False, max_jobs=None, name=""):
    """Run a worker to its end, with RQ's limits."""
    code = textwrap.dedent(OURS)
    path = str(project.root / "config.toml")
    argv = [sys.executable, "-c", code, path, name, str(burst), str(max_jobs)]
    return subprocess.run(argv, timeout=60, check=True)


def test_a_job_tells_what_it_is_from_its_acceptance_to_its_end(project):
    project.configure(CODE, keep="77s")
    (id,) = project.push({"n": 1})
    job = fetch(project, id)
    assert (job.get_status(), job.is_queued, job.get_position(), job.origin) == ("queued", True, 0, "f")
    assert (job.func_name, job.args[0], job.args[1]["data"], job.kwargs) == ("broker.invoke", "f", {"n": 1}, {})
    assert (job.get_meta(), job.return_value(), job.latest_result()) == ({}, None, None)
    assert (queue(project).count, queue(project).job_ids, queue(project).jobs) == (1, [id], [job])
    assert Queue.all(connection=project.client) == [queue(project)]
    project.worker(name="w")
    project.ends(id)
    job = fetch(project, id)
    assert (job.is_finished, job.return_value(), job.worker_name) == (True, {"n": 1}, "w")
    assert job.created_at <= job.enqueued_at <= job.started_at <= job.ended_at
    assert (job.latest_result().return_value, job.latest_result().worker_name) == ({"n": 1}, "w")
    assert id in registry(FinishedJobRegistry, project)
    assert queue(project).count == 0
    assert 0 < project.client.ttl(job.key) <= 77


def test_what_is_cancelled_is_not_run_wherever_it_waits(project):
    project.configure(CODE)
    (waits,) = project.push(1)
    (later,) = project.push(2, delay=60)
    assert later in registry(ScheduledJobRegistry, project)
    fetch(project, waits).cancel()
    cancel_job(later, connection=project.client, serializer="json")
    assert set(registry(CanceledJobRegistry, project).get_job_ids()) == {waits, later}
    with pytest.raises(InvalidJobOperation):
        fetch(project, waits).cancel()
    run(project, burst=True)
    assert [fetch(project, id).get_status() for id in (waits, later)] == ["canceled"] * 2
    assert [(one.cancelled, one.missing) for one in audit(project.client)] == [(2, 0)]


def test_dead_letters_are_requeued_by_registry_job_and_command(project):
    project.configure(CODE, retry={"attempts": 1})
    ids = project.push("bad", "bad", "bad")
    run(project, burst=True)
    failed = registry(FailedJobRegistry, project)
    assert set(failed.get_job_ids()) == set(ids)
    assert all(fetch(project, id).is_failed for id in ids)
    assert "ValueError: it is broken" in fetch(project, ids[0]).latest_result().exc_string
    (project.root / "good").write_text("")
    failed.requeue(ids[0])
    fetch(project, ids[1]).requeue()
    subprocess.run(
        [sys.executable, "-m", "rq.cli", "requeue", "-u", project.url, "-S", "json", "--queue", "f", "--all"],
        check=True,
        capture_output=True,
    )
    assert failed.count == 0
    assert queue(project).job_ids == ids
    run(project, burst=True)
    assert [fetch(project, id).return_value() for id in ids] == ["bad"] * 3


def test_rqs_tools_see_the_worker_and_what_it_runs_and_has_done(project):
    project.configure(CODE, retry={"attempts": 1})
    process = project.worker(name="w")
    one = worker(project)
    assert (one.pid, one.queue_names()) == (process.pid, ["f"])
    assert one.birth_date <= one.last_heartbeat
    assert 0 < project.client.ttl("rq:worker:w") <= 480
    assert Worker.count(queue=queue(project)) == 1
    (hold, good, bad) = project.push("hold", 1, "bad")
    held(project)
    until(lambda: worker(project).get_current_job_id() == hold)
    assert worker(project).get_state() == "busy"
    assert hold in registry(StartedJobRegistry, project)
    assert [one.worker_name for one in worker(project).get_current_executions()] == ["w"]
    project.ends(good)
    project.ends(bad, "failed")
    (project.root / "go").write_text("")
    project.ends(hold)
    until(lambda: worker(project).successful_job_count == 2)
    assert (worker(project).failed_job_count, worker(project).get_current_job_id()) == (1, None)
    assert worker(project).total_working_time > 0
    until(lambda: worker(project).get_state() == "idle")
    assert registry(StartedJobRegistry, project).count == 0


def test_commands_stop_an_execution_and_kill_what_runs(project):
    project.configure(CODE, retry={"attempts": 1})
    project.worker(name="w")
    (stopped,) = project.push("hold")
    until(lambda: worker(project).get_current_executions())
    (execution,) = worker(project).get_current_executions()
    send_stop_execution_command(project.client, stopped, execution.id)
    project.ends(stopped, "stopped")
    (project.root / "held").unlink()
    (killed,) = project.push("hold")
    held(project)
    send_kill_horse_command(project.client, "w")
    assert project.ends(killed, "failed")["reason"] == "Killed"


def test_signals_and_the_shutdown_command_let_what_runs_be_finished(project):
    project.configure(CODE)
    for name, end in (
        ("a", lambda process: process.send_signal(signal.SIGINT)),
        ("b", lambda process: send_shutdown_command(project.client, "b")),
    ):
        process = project.worker(name=name)
        (id,) = project.push("hold")
        held(project)
        end(process)
        until(lambda name=name: worker(project, name).shutdown_requested_date)
        (after,) = project.push("later")
        (project.root / "go").write_text("")
        assert process.wait(20) == 0
        assert (project.job(id)["status"], project.job(after)["status"]) == ("finished", "queued")
        assert Worker.all(connection=project.client) == []
        assert project.client.hexists(f"rq:worker:{name}", "death")
        assert fetch(project, after).cancel() == {}
        (project.root / "go").unlink()
        (project.root / "held").unlink()


def test_a_second_signal_gives_back_what_runs(project):
    project.configure(CODE)
    process = project.worker(name="w")
    (id,) = project.push("hold")
    held(project)
    process.send_signal(signal.SIGTERM)
    until(lambda: worker(project).shutdown_requested_date)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert project.job(id)["status"] == "queued"  # RQ's would have it fail in a while


def test_max_jobs_is_how_many_are_run_and_a_burst_ends_when_nothing_waits(project):
    project.configure(CODE)
    ids = project.push(*range(10))
    run(project, max_jobs=3)
    assert sorted(project.job(id)["status"] for id in ids) == ["finished"] * 3 + ["queued"] * 7
    run(project, burst=True)
    assert {project.job(id)["status"] for id in ids} == {"finished"}


def test_a_worker_is_idle_for_so_long_at_the_most(project, redis_client):
    project.configure(CODE)
    ids = project.push(1, 2)
    code = (
        "import sys; from broker import config; from broker.store import connection; from broker.worker import Worker\n"
    )
    code += "c = config.load(sys.argv[1]); sys.exit(Worker(c, connection.connect(c)).work(max_idle_time=1) - 1)"
    subprocess.run([sys.executable, "-c", code, str(project.root / "config.toml")], check=True, timeout=60)
    assert {project.job(id)["status"] for id in ids} == {"finished"}


def test_a_suspended_worker_claims_nothing_and_a_suspended_burst_ends(project):
    project.configure(CODE)
    suspend(project.client)
    (id,) = project.push(1)
    run(project, burst=True)
    project.worker(name="w")
    until(lambda: worker(project).get_state() == "suspended")
    assert project.job(id)["status"] == "queued"
    resume(project.client)
    project.ends(id)


def test_a_name_is_taken_while_its_worker_lives_and_free_when_it_died(project):
    project.configure(CODE)
    process = project.worker(name="w")
    with pytest.raises(subprocess.CalledProcessError):
        run(project, burst=True, name="w")
    process.kill()
    process.wait()
    until(
        lambda: (
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    f"""
import sys
from broker import config
from broker.errors import BrokerError
from broker.store import connection
from broker.worker import Worker
c = config.load({str(project.root / "config.toml")!r})
try:
    Worker(c, connection.connect(c), name="w").work(burst=True)
except BrokerError as error:
    assert str(error) == "there is a worker called w already"
    sys.exit(1)
""",
                ],
                check=False,
            ).returncode
            == 0
        ),
        within=30,
    )
    assert Worker.all(connection=project.client) == []


def test_a_registration_that_redis_has_lost_is_made_again(project, monkeypatch):
    from rq import Worker as Stock

    from broker.worker import registration

    monkeypatch.setattr(registration, "BEAT", 0)
    stock = Stock(["f"], name="w", connection=project.client)
    one = registration.Registration(stock)
    one.begin()
    project.client.flushall()
    one.beat(state="idle", running=())
    assert worker(project).queue_names() == ["f"]
    assert worker(project).get_state() == "idle"
    one.end()


def test_what_rq_deletes_is_missing_in_the_books_until_it_is_written_off(project):
    from tests.integration.command import broker

    project.configure(CODE)
    ids = project.push(1, 2, 3, 4)
    fetch(project, ids[0]).delete()
    assert "do not balance" in broker(project.root, "audit", code=1).stderr
    broker(project.root, "audit", "--write-off")
    assert [(one.vanished, one.queued, one.missing) for one in audit(project.client)] == [(1, 3, 0)]
    assert queue(project).empty() == 3
    broker(project.root, "audit", "--write-off", "--deep")
    assert [(one.accepted, one.vanished, one.missing) for one in audit(project.client)] == [(4, 4, 0)]
    broker(project.root, "audit", "--deep")


def test_what_rq_deletes_while_it_runs_has_vanished_when_it_ends(project):
    project.configure(CODE)
    project.worker(name="w")
    (id,) = project.push("hold")
    held(project)
    fetch(project, id).delete()
    (project.root / "go").write_text("")
    until(lambda: [(one.vanished, one.leased, one.missing) for one in audit(project.client)] == [(1, 0, 0)])


def test_what_is_cancelled_while_it_runs_goes_on_and_its_end_is_refused(project):
    project.configure(CODE)
    project.worker(name="w")
    (id,) = project.push("hold")
    held(project)
    fetch(project, id).cancel()
    (project.root / "go").write_text("")
    until(lambda: [(one.cancelled, one.leased, one.missing) for one in audit(project.client)] == [(1, 0, 0)])
    assert project.job(id)["status"] == "canceled"
