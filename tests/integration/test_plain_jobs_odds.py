"""Plain jobs and what seldom happens: cut connections, a Redis that restarts, jobs that were taken and never begun."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
import redis
from rq import Queue

from broker.plain import worker as plain_worker
from broker.plain.bell import Bell
from broker.plain.worker import PlainWorker
from tests.conftest import PrivateServer, until
from tests.integration.command import broker, environment
from tests.integration.plain import Plain


@pytest.fixture
def ours(tmp_path, redis_client, redis_server):
    plain = Plain(tmp_path, redis_client, redis_server.url, "ours")
    yield plain
    plain.close()


def in_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_a_bell_rings_for_any_of_its_lists_and_takes_nothing(redis_client):
    bell = Bell(redis_client, ["a", "b"])
    for key in ("b", "a"):
        waiting = in_thread(lambda: bell.wait(30))
        redis_client.rpush(key, 1, 2)
        waiting.join(10)
        assert not waiting.is_alive()
        assert redis_client.lrange(key, 0, -1) == [b"1", b"2"]
        redis_client.delete(key)
    waiting = in_thread(lambda: bell.wait(30))
    bell.ring()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_bell_tells_that_its_connection_broke_and_listens_again(redis_client):
    bell = Bell(redis_client, ["a"])
    bell.wait(0)
    redis_client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(redis.ConnectionError):
        bell.wait(30)
    waiting = in_thread(lambda: bell.wait(30))
    redis_client.rpush("a", 1)
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_job_that_was_taken_and_never_begun_is_given_back(redis_client, monkeypatch):
    monkeypatch.setattr(plain_worker, "STUCK_AFTER", 0)
    queue = Queue("mail", connection=redis_client)
    first, second = queue.enqueue("jobs.add", 1, 2), queue.enqueue("jobs.add", 3, 4)
    assert Queue.dequeue_any([queue], None, connection=redis_client)[0] == first
    assert queue.intermediate_queue.get_job_ids() == [first.id]
    worker = PlainWorker(["mail"], name="w", client=redis_client, serializer="pickle", report=lambda word: None)
    worker.clean_registries()  # it sees it
    worker.clean_registries()  # and again
    assert queue.job_ids == [first.id, second.id]
    assert queue.intermediate_queue.get_job_ids() == []
    assert first.get_status() == "queued"


def test_cut_connections_lose_no_job(ours):
    ours.start(name="w")
    job = ours.queue().enqueue("jobs.hold")
    ours.held()
    ours.client.client_kill_filter(_type="normal", skipme=True)
    ours.client.client_kill_filter(_type="pubsub", skipme=True)
    ours.go_on()
    again = ours.queue().enqueue("jobs.add", 1, 2)
    until(lambda: again.get_status() == "finished", within=30)
    # The horse may have lost the answer for which it waited; then that is how its job failed.
    assert job.get_status() in {"finished", "failed"}
    ours.client.client_kill_filter(_type="normal", skipme=True)
    assert ours.ends(ours.queue("later").enqueue("jobs.add", 3, 4)).return_value() == 7


def test_a_redis_that_restarts_is_waited_for(tmp_path):
    server = PrivateServer("--appendonly", "yes", "--appendfsync", "always")
    with redis.Redis.from_url(server.url) as client:
        plain = Plain(tmp_path, client, server.url, "ours")
        plain.start(name="w")
        until(lambda: plain.worker("w").get_state() == "idle")
        job = plain.queue().enqueue("jobs.add", 1, 2)
        plain.ends(job)
        argv = server.process.args
        server.process.kill()
        server.process.wait()
        server.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(server._answers, within=20)
        assert plain.ends(plain.queue().enqueue("jobs.add", 3, 4), within=40).return_value() == 7
        assert job.get_status() == "finished"
        plain.close()
    server.close()


def test_broker_up_runs_plain_jobs_on_its_embedded_server_and_status_shows_them(tmp_path):
    from broker import address
    from tests.integration.command import started

    (tmp_path / "jobs.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "config.toml").write_text('[broker.rq]\nqueues = ["mail"]\n')
    up = started(tmp_path, "up")
    try:
        path = tmp_path / ".broker"
        until((path / address.NAME).exists, within=30)
        with redis.Redis.from_url(address.url(address.find(path))) as client:
            until(lambda: client.ping() and client.smembers("rq:workers:mail"), within=30)
            job = Queue("mail", connection=client).enqueue("jobs.add", 1, 2)
            until(lambda: job.get_status() == "finished", within=30)
            assert job.return_value() == 3
            failed = Queue("mail", connection=client).enqueue("jobs.missing")
            until(lambda: failed.get_status() == "failed", within=30)
            state = json.loads(broker(tmp_path, "status", "--json").stdout)
            rows = {"queued": 0, "scheduled": 0, "deferred": 0, "started": 0, "failed": 1}
            assert state["plain jobs"] == [{"name": "mail", **rows}]
            info = subprocess.run(
                [sys.executable, "-m", "rq.cli", "info", "-u", address.url(address.find(path)), "--raw"],
                env=environment(PYTHONWARNINGS="ignore"),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            assert "queue mail 0" in info
            assert "worker" in info
    finally:
        up.terminate()
        out, _ = up.communicate(timeout=30)
    assert up.returncode == 0
    assert "plain RQ jobs of mail" in out


def test_no_other_process_of_the_same_user_can_read_the_address_of_redis(ours):
    ours.start()
    job = ours.queue().enqueue("jobs.is_readable")
    assert ours.ends(job).return_value() == 0
