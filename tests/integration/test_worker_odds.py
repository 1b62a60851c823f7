"""The worker and what seldom happens: lost answers, foreign jobs, names that are not UTF-8, too few environments."""

from __future__ import annotations

import os
import signal
import time

import pytest
import rq
from rq import Queue
from rq.command import send_stop_job_command
from rq.serializers import JSONSerializer

from broker.doorbell import MISSED, Subscription
from broker.errors import StoreUnavailable
from broker.ledger import Ledger
from broker.ledger.ledger import WAKE
from broker.store import connection
from broker.worker import Worker
from tests.conftest import until

ECHO = "def handler(event, context): return 1\n"


def turning(worker, condition, within=30):
    """Let a worker of this process turn until the condition holds."""
    end = time.monotonic() + within
    while not condition() and time.monotonic() < end:
        worker._turn()
    return condition()


def on_claims(worker, look):
    """Have a look at the answer to each claim before the worker gets it."""
    send = worker._pipelined.send

    def sending(call, then):
        send(call, (lambda answer: (look(answer), then(answer))) if call.script == "claim" else then)

    worker._pipelined.send = sending


def test_a_claim_whose_answer_was_lost_is_given_back_and_run(project):
    project.configure(ECHO)
    (id,) = project.push(1)
    worker = Worker(project.config, project.client)
    worker._begin()
    executions = []

    def lossy(answer):
        executions.extend(one.execution for one in answer.claimed)
        if len(executions) == 1:
            raise StoreUnavailable("the answer was lost")

    on_claims(worker, lossy)
    try:
        assert turning(worker, lambda: project.job(id)["status"] == "finished")
        assert project.job(id)["attempt"] == "1"
        assert len(set(executions)) == len(executions) == 2  # an execution is used once
    finally:
        worker._end()


def test_a_job_that_another_program_put_into_the_queue_is_a_dead_letter_and_stops_nobody(project):
    project.configure(ECHO)
    foreign = Queue("f", connection=project.client).enqueue("os.getcwd")
    project.client.hincrby("broker:books:f", "accepted", 1)  # nobody asked the ledger
    (id,) = project.push(2)
    project.worker()
    project.ends(id)
    assert project.ends(foreign.id, "failed")["reason"] == "Foreign"


def test_an_error_that_names_a_file_that_is_not_utf_8_is_kept(project):
    project.configure("def handler(event, context): raise ValueError('no \\udcff')\n", retry={"attempts": 1})
    project.worker()
    (id,) = project.push(1)
    assert project.ends(id, "failed")["reason"] == "ValueError"
    until(lambda: any("\\udcff" in line for line in project.lines(id)))


def test_a_result_that_names_a_file_that_is_not_utf_8_goes_on_to_its_destination(project):
    (project.root / "g.py").write_text("def handler(event, context): return len(event['data']['result']['x'])\n")
    project.configure(
        "def handler(event, context): return {'x': '\\udcff'}\n",
        '[functions.g]\nhandler = "g.py:handler"\n',
        on_success="g",
    )
    project.worker()
    project.ends(project.push(1)[0])
    until(lambda: project.client.zcard("rq:finished:g") == 1)


def few(project, code, environments):
    (project.root / "g.py").write_text("def handler(event, context): return 'g'\n")
    project.configure(
        code,
        '[functions.g]\nhandler = "g.py:handler"\n[sources.r]\nkind = "./quiet.py:Quiet"\n'
        '[[triggers]]\nsource = "r"\nfunction = "g"\n',
    )
    path = project.root / "config.toml"
    path.write_text(path.read_text().replace("[broker]\n", f"[broker]\nenvironments = {environments}\n"))


def push_g(project):
    from broker.event import new_event

    (receipt,) = project.publisher.publish([new_event(source="r", type="t")])
    return receipt.invocations[0]


def test_a_warm_environment_stays_while_nobody_else_has_anything_to_run(project):
    few(project, "import os\ndef handler(event, context): return os.getpid()\n", 1)
    worker = Worker(project.config, project.client)
    worker._begin()
    try:
        (first,) = project.push(1)
        assert turning(worker, lambda: project.job(first)["status"] == "finished")
        turning(worker, lambda: False, within=2.5)  # two beats, at which every function is asked for
        (second,) = project.push(2)
        assert turning(worker, lambda: project.job(second)["status"] == "finished")
        assert project.result(first) == project.result(second)
    finally:
        worker._end()


def test_a_function_without_an_environment_gets_one_of_those_that_another_has_many_of(project):
    few(project, "import time\ndef handler(event, context): time.sleep(0.3)\n", 2)
    project.worker()
    slow = project.push(*range(20))
    until(lambda: sum(project.job(id)["status"] == "started" for id in slow) == 2)
    project.ends(push_g(project))
    assert project.job(slow[-1])["status"] == "queued"
    for id in slow:
        project.ends(id)


def test_a_worker_that_waits_for_room_does_not_spin(project):
    few(project, "import time\ndef handler(event, context): time.sleep(1.5)\n", 1)
    worker = Worker(project.config, project.client)
    worker._begin()
    try:
        (slow,) = project.push(1)
        assert turning(worker, lambda: project.job(slow)["status"] == "started")
        other = push_g(project)
        before = os.times()
        assert turning(worker, lambda: project.job(other)["status"] == "finished")
        after = os.times()
        assert after.user + after.system - before.user - before.system < 0.7
    finally:
        worker._end()


@pytest.mark.parametrize("first", [3, 0])
def test_a_worker_does_not_spin_while_an_environment_that_hung_up_takes_its_time_to_end(project, first):
    """It has closed the socket, or the pipe of what it prints, too."""
    code = f"import os, time\ndef handler(event, context):\n    os.closerange({first}, 4096)\n    time.sleep(60)\n"
    project.configure(code, retry={"attempts": 1})
    worker = Worker(project.config, project.client)
    worker._begin()
    turns = []
    try:
        (id,) = project.push(1)
        assert turning(worker, lambda: turns.append(id) or project.job(id)["status"] == "failed")
    finally:
        worker._end()
    assert project.job(id)["reason"] == "EnvironmentDied"
    assert len(turns) < 100


BYSTANDERS = """
import os, signal, time

def handler(event, context):
    time.sleep(0.5)
    if event["data"] == "poison":
        with open(f"/proc/{os.getppid()}/stat") as stat:  # the nursery; its parent is the worker
            os.kill(int(stat.read().rpartition(")")[2].split()[1]), signal.SIGKILL)
        time.sleep(60)
    time.sleep(0.5)
"""


def test_who_runs_beside_poison_each_time_does_not_die_with_it(project):
    project.configure(BYSTANDERS)
    poison, *others = project.push("poison", 1, 2, 3)
    worker = project.worker()
    while project.job(poison)["status"] != "failed":
        if worker.poll() is not None:
            worker = project.worker()
        time.sleep(0.02)
    assert (project.job(poison)["reason"], project.job(poison)["attempt"]) == ("WorkerLost", "4")
    for id in others:
        assert "crashes" in project.ends(id)


@pytest.mark.parametrize("said", [b"stop", b"[]", b"{}", b"\xff"])
def test_what_is_no_command_and_no_queue_ends_no_worker(project, said):
    project.configure(ECHO)
    worker = Worker(project.config, project.client)
    worker._begin()
    try:
        worker._turn()  # it listens
        for channel in (worker._commands, WAKE):
            assert project.client.publish(channel, said) == 1
        (id,) = project.push(1)
        assert turning(worker, lambda: project.job(id)["status"] == "finished")
    finally:
        worker._end()


def test_any_number_of_connections_may_break_and_be_made_again(redis_server):
    with connection.open_url(redis_server.url) as client:
        for _ in range(client.connection_pool.max_connections + 10):
            subscription = Subscription(client, ["x"])
            assert list(subscription.heard(10)) == [(MISSED, b"")]
            subscription.close()
            assert Ledger(client).recover().recovered == []  # each has a line of its own
        assert client.ping()


def test_a_suspect_of_which_redis_did_not_hear_that_it_runs_holds_no_other_back(project, monkeypatch):
    project.configure(ECHO)
    worker = Worker(project.config, project.client)
    mark, marked = worker.ledger.mark_running, []

    def mark_second(claimed):
        marked.append(claimed)
        if len(marked) == 1:
            raise StoreUnavailable("away")
        mark(claimed)

    monkeypatch.setattr(worker.ledger, "mark_running", mark_second)
    (id,) = project.push(1)
    project.client.hset(f"rq:job:{id}", mapping={"crashes": 2, "attempt": 2})
    worker._begin()
    try:
        assert turning(worker, lambda: project.job(id)["status"] == "finished")
        assert len(marked) == 2
    finally:
        worker._end()


def test_a_job_is_stopped_of_which_the_worker_does_not_know_yet_that_it_has_it(project):
    project.configure("import time\ndef handler(event, context): time.sleep(60)\n", retry={"attempts": 1})
    (id,) = project.push(1)
    worker = Worker(project.config, project.client)
    send, answers = worker._pipelined.send, []

    def late(call, then):
        send(call, (lambda answer: answers.append((then, answer))) if call.script == "claim" else then)

    worker._pipelined.send = late
    worker._begin()
    try:
        assert turning(worker, lambda: answers)
        send_stop_job_command(project.client, id, serializer=JSONSerializer)
        assert turning(worker, lambda: worker._told_to)
        worker._pipelined.send = send
        then, answer = answers[0]
        then(answer)
        assert turning(worker, lambda: project.job(id)["status"] == "stopped")
    finally:
        worker._end()


def test_what_is_stopped_during_its_init_holds_back_no_other(project):
    project.configure("import time\ntime.sleep(60)\ndef handler(event, context): pass\n", retry={"attempts": 1})
    worker = Worker(project.config, project.client)
    worker._begin()
    try:
        for number in range(3):
            (id,) = project.push(number)
            assert turning(worker, lambda: worker._pool.running)
            send_stop_job_command(project.client, id, serializer=JSONSerializer)
            assert turning(worker, lambda n=number: project.client.zcard("rq:failed:f") == n + 1)
            assert worker._pool.crew(worker.functions["f"]).hold_until == 0
    finally:
        worker._end()


def test_no_suspect_begins_before_redis_knows_how_the_last_one_ended(project):
    project.configure("def handler(event, context):\n    with open('ran', 'a') as file: file.write('x')\n")
    ids = project.push(1, 2)
    for id in ids:
        project.client.hset(f"rq:job:{id}", mapping={"crashes": 2, "attempt": 2})
    worker = Worker(project.config, project.client)
    send, claims = worker._pipelined.send, []
    worker._pipelined.send = lambda call, then: call.script == "settle" or send(call, then)  # settlements are held back
    on_claims(worker, lambda answer: claims.append(answer.claimed))
    worker._begin()
    try:
        assert turning(worker, lambda: worker._endings.count == 1 and worker._outbox.settlements)
        turning(worker, lambda: False, within=0.5)
        ran = (project.root / "ran").read_text()
        assert (ran, sum(map(len, claims))) == ("x", 2)  # the second is here, and waits
        worker._pipelined.send = send
        assert turning(worker, lambda: all(project.job(id)["status"] == "finished" for id in ids))
    finally:
        worker._end()


def test_a_worker_whose_subscription_broke_hears_again(project):
    project.configure("import time\ndef handler(event, context): time.sleep(60)\n", retry={"attempts": 1})
    worker = Worker(project.config, connection.open_url(project.url))  # it connects again by itself
    worker._begin()
    try:
        (id,) = project.push(1)
        assert turning(worker, lambda: project.job(id)["status"] == "started")
        assert project.client.client_kill_filter(_type="pubsub") >= 1  # those of earlier tests may still be closing
        turning(worker, lambda: False, within=1.5)  # a beat
        send_stop_job_command(project.client, id, serializer=JSONSerializer)
        assert turning(worker, lambda: project.job(id)["status"] == "stopped")
    finally:
        worker._end()


def test_a_worker_that_starts_while_redis_is_full_runs_what_is_there_and_is_registered_later(project):
    project.configure("def handler(event, context): pass\n")
    (id,) = project.push(1)
    project.client.config_set("maxmemory", 1)
    try:
        late, other = project.worker(name="late"), project.worker(name="other")
        project.ends(id)
        assert rq.Worker.all(connection=project.client) == []
        other.send_signal(signal.SIGTERM)
        assert other.wait(20) == 0
        assert project.client.zscore("broker:workers", "other") is None  # it has left, and no lease has to run out
    finally:
        project.client.config_set("maxmemory", 0)
    until(lambda: [one.get_state() for one in rq.Worker.all(connection=project.client)] == ["idle"])
    assert project.client.hget("rq:worker:late", "leased") == b"1"
    assert 0 < project.client.ttl("rq:worker:late") <= 480
    late.send_signal(signal.SIGTERM)
    assert late.wait(20) == 0


def test_a_server_that_forgets_a_script_again_and_again_is_waited_for(redis_client):
    ledger = Ledger(redis_client)
    load = redis_client.script_load
    redis_client.script_load = lambda script: "0" * 40
    redis_client.script_flush()
    with pytest.raises(StoreUnavailable):
        ledger.recover()
    redis_client.script_load = load
    ledger.recover()
