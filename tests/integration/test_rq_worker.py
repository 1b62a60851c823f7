"""Our jobs are RQ's: a stock `rq worker` runs them, RQ's tools see them, and the books balance all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rq.job import Job
from rq.serializers import JSONSerializer

import broker as package
from broker.doorbell import Doorbell
from broker.errors import BrokerError
from broker.event import new_event
from broker.ledger import Ledger, Settlement, audit
from broker.ledger.inspection import misplaced
from broker.publisher import Publisher
from broker.source import Publishing
from tests.conftest import until
from tests.integration.command import environment

CODE = """
import os, time
def handler(event, context):
    print("got", event["data"])
    if event["data"] == "once" and context.attempt == 1:
        raise ValueError("not yet")
    if event["data"] == "bad":
        raise ValueError(f"no {context.attempt}")
    if event["data"] == "exit":
        os._exit(3)
    if event["data"] == "slow":
        time.sleep(60)
    return {"n": event["data"], "attempt": context.attempt}
"""
TABLES = '[functions.g]\nhandler = "f.py:handler"\n'
AT_ONCE = {"attempts": 2, "backoff": "fixed", "base": 0, "jitter": False}


def rq(project, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "rq.cli", *arguments, "-u", project.url],
        cwd=project.root,
        env=environment(PYTHONWARNINGS="ignore"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def work(project, *queues):
    done = rq(project, "worker", "--burst", "-S", "rq.serializers.JSONSerializer", *queues)
    assert done.returncode == 0, done.stderr
    return done.stderr


def fetch(project, id):
    return Job.fetch(id, connection=project.client, serializer=JSONSerializer)


def test_a_stock_worker_runs_retries_and_buries_as_ours_does(project):
    project.configure(CODE, TABLES, retry=AT_ONCE, on_success="g")
    good, again, bad = project.push(1, "once", "bad")
    said = work(project, "f")
    assert fetch(project, good).return_value() == {"n": 1, "attempt": 1}
    assert fetch(project, again).return_value() == {"n": "once", "attempt": 2}
    assert fetch(project, bad).get_status() == "failed"
    assert "ValueError: no 2" in fetch(project, bad).latest_result().exc_string
    assert "ValueError: no 2" in said
    assert (project.job(bad)["attempt"], project.job(bad)["reason"]) == ("2", "ValueError")
    assert project.client.zscore("rq:failed:f", bad) == -1  # for ever: RQ removes what has a time that is past
    lines = project.lines(again)
    assert [line for line in lines if line.startswith("got")] == ["got once", "got once"]
    assert "Init Duration" in lines[-1]
    account = {one.queue: one for one in audit(project.client)}
    assert (account["f"].finished, account["f"].dead, account["g"].queued) == (2, 1, 2)
    assert list(misplaced(project.client, ["f", "g"])) == []
    (usage,) = project.client.scan_iter("broker:usage:*:f")
    figures = project.client.hgetall(usage)
    assert (figures[b"requests"], figures[b"errors"], figures[b"cold_starts"]) == (b"5", b"3", b"5")
    info = rq(project, "info", "--raw").stdout
    assert "queue f 0" in info
    assert "queue g 2" in info
    # RQ has rewritten the record; a worker of ours reads it all the same.
    Ledger(project.client).settle("cli", [Settlement(verdict="replay", queue="f", id=bad)])
    (project.root / "f.py").write_text("def handler(event, context): return event['data']\n")
    project.worker()
    project.ends(bad)
    assert project.result(bad) == "bad"


def test_a_stock_worker_hands_over_the_client_context(project):
    project.configure("def handler(event, context): return context.client_context.custom\n")
    event = new_event(source="cli", type="invoke", data=None)
    order = project.publisher.order_for("f", event, client=b'{"custom":[7]}')
    Ledger(project.client).publish([[order]])
    assert fetch(project, order.id).kwargs == {"client_context": {"custom": [7]}}
    work(project, "f")
    assert fetch(project, order.id).return_value() == [7]


def test_whoever_waits_for_the_end_is_told_by_a_stock_worker_too(project):
    project.configure(CODE, retry={"attempts": 1})
    heard = []
    doorbell = Doorbell(project.client, ["answers"], lambda channel, data: heard.append(data))
    assert doorbell.wait_until_listening(5)
    publisher = Publisher(project.config, Ledger(project.client), reply="answers")
    events = [new_event(source="q", type="t", id=name, data=data) for name, data in (("a", 1), ("b", "bad"))]
    good, bad = publisher.publish(events, Publishing(track=True, reply=True))
    work(project, "f")
    until(lambda: len([data for data in heard if data]) == 2)
    assert f"{good.invocations[0]}\n1\n" in heard[-2].decode()
    assert f"{bad.invocations[0]}\n0\n" in heard[-1].decode()
    assert project.client.lrange("broker:ended:q", 0, -1) == [b"0\na", b"1\nb"]
    doorbell.close()


@pytest.mark.parametrize(("data", "reason"), [("exit", "Exited"), ("slow", "TimedOut")])
def test_limits_are_enforced_under_a_stock_worker(project, data, reason):
    project.configure(CODE, retry={"attempts": 1}, timeout="5s")  # RQ counts importing us, too
    (id,) = project.push(data)
    work(project, "f")
    assert (project.job(id)["status"], project.job(id)["reason"]) == ("failed", reason)


def test_a_retry_after_a_wait_is_left_for_whoever_looks_next(project):
    project.configure(CODE, retry={"attempts": 3, "backoff": "fixed", "base": "1200ms", "jitter": False})
    (id,) = project.push("once")
    work(project, "f")
    assert project.job(id)["status"] == "scheduled"
    assert project.client.zcard("rq:scheduled:f") == 1
    project.worker()
    project.ends(id)
    assert project.result(id) == {"n": "once", "attempt": 2}


def test_a_job_of_a_function_that_is_gone_is_buried_and_can_be_replayed(project):
    project.configure(CODE, TABLES)
    (id,) = project.push(1)
    config = project.root / "config.toml"
    text = config.read_text()
    config.write_text('[functions.g]\nhandler = "f.py:handler"\n')
    work(project, "f")
    assert "there is no function 'f'" in fetch(project, id).latest_result().exc_string
    assert project.client.zcard("rq:failed:f") == 1
    config.write_text(text)


def test_outside_a_job_it_says_what_to_use(project):
    with pytest.raises(BrokerError, match="use `broker invoke`"):
        package.invoke("f", {})
