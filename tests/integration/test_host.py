"""The host: outcomes reach those who wait for them, and a source that dies is started again."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from broker.config import load
from broker.errors import StoreUnavailable
from broker.event import new_event
from broker.host import Host, HostContext, Replies
from broker.ledger import Settlement, Want
from broker.source import Publishing
from tests.conftest import until


@pytest.fixture
def host(project):
    project.configure("def handler(event, context): return 1\n")
    host = Host(project.config, project.client)
    until(lambda: host.replies._doorbell.wait_until_listening(0))
    yield host
    host.stopping.set()
    host.group_commit.close()
    host.replies.close()
    host._deploys.close()


def answer(host, result=b"[1]"):
    (claimed,) = host.publisher._ledger.claim("w", [Want(function="f", queues=("f",), most=1)], 1).claimed
    settlement = Settlement(
        verdict="finished", queue="f", id=claimed.id, execution=claimed.execution, result=result, told=claimed.told
    )
    host.publisher._ledger.settle("w", [settlement])
    return claimed.id


def test_an_outcome_that_comes_before_it_is_asked_for_is_not_lost(host):
    context = HostContext(host, "q")
    receipt = context.submit(new_event(source="q", type="t"), Publishing(reply=True)).result(5)
    id = answer(host)
    until(host.replies._waiting[id].done)
    assert (id,) == receipt.invocations
    assert context.outcome(id).result(5).body == b"[1]"
    assert host.replies._waiting == {}


def test_an_outcome_that_comes_after_it_is_asked_for_is_heard(host):
    context = HostContext(host, "q")
    (id,) = context.submit(new_event(source="q", type="t"), Publishing(reply=True)).result(5).invocations
    outcome = context.outcome(id)
    answer(host)
    assert outcome.result(5).ok
    until(lambda: host.replies._waiting == {})


def test_a_publisher_that_stops_waiting_leaves_nothing_behind(host):
    context = HostContext(host, "q")
    event = new_event(source="q", type="t")
    (id,) = context.submit(event, Publishing(reply=True)).result(5).invocations
    context.outcome(id).cancel()
    assert context.submit(event, Publishing(reply=True)).result(5).duplicate
    until(lambda: host.replies._waiting == {})
    answer(host)


def test_nothing_is_published_for_a_reply_that_could_not_be_heard(redis_client):
    import redis

    replies = Replies(redis.Redis(unix_socket_path="/nowhere"))
    with pytest.raises(StoreUnavailable):
        replies.expect(["a"])
    replies.close()


def test_submissions_from_many_threads_are_all_answered(host):
    context = HostContext(host, "q")
    futures: list[Future] = []
    lock = threading.Lock()

    def submit():
        for _ in range(50):
            future = context.submit(new_event(source="q", type="t"))
            with lock:
                futures.append(future)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({future.result(5).invocations for future in futures}) == 400
    assert host.client.llen("rq:queue:f") == 400


def test_a_fault_while_publishing_is_told_to_those_it_hit_and_stops_nobody_else(host, monkeypatch):
    context = HostContext(host, "q")
    with monkeypatch.context() as patch:
        patch.setattr(host.publisher._ledger, "publish", lambda orders, **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            context.submit(new_event(source="q", type="t")).result(5)
    assert context.submit(new_event(source="q", type="t")).result(5).invocations


def test_what_a_source_does_with_an_answer_may_fail_without_harm_to_others(host, caplog):
    context = HostContext(host, "q")
    answers = []
    context.submit_then(new_event(source="q", type="t"), Publishing(), lambda _: 1 / 0)
    context.submit_then(new_event(source="q", type="t"), Publishing(), answers.append)
    until(lambda: answers)
    assert answers[0].invocations
    assert "ZeroDivisionError" in caplog.text


def test_what_was_submitted_before_the_end_is_published(host):
    context = HostContext(host, "q")
    answers = []
    for _ in range(1200):
        context.submit_then(new_event(source="q", type="t"), Publishing(), answers.append)
    host.group_commit.close()
    assert len(answers) == host.client.llen("rq:queue:f") == 1200


def test_a_source_that_dies_is_started_again(project):
    project.configure("def handler(event, context): return 1\n")
    (project.root / "quiet.py").write_text(
        "from broker.event import new_event\nfrom broker.source import Source\n"
        "class Quiet(Source):\n"
        "    def run(self, context):\n"
        "        n = context.redis.incr(context.prefix + 'starts')\n"
        "        if n < 3: raise RuntimeError('no')\n"
        "        context.publish([new_event(source=context.name, type='t')])\n"
        "        context.stopping.wait()\n"
    )
    host = Host(load(project.root / "config.toml"), project.client)
    thread = threading.Thread(target=host.run)
    thread.start()
    until(lambda: project.client.llen("rq:queue:f") == 1)
    host.stopping.set()
    thread.join(30)
    assert not thread.is_alive()
    assert project.client.get("broker:source:q:starts") == b"3"


def test_all_schedules_of_a_host_share_one_thread_and_a_full_queue_holds_up_one(project):
    tables = "".join(f'[sources.s{n}]\nkind = "schedule"\nevery = "200ms"\n' for n in range(100))
    tables += "".join(f'[[triggers]]\nsource = "s{n}"\nfunction = "{"g" if n == 0 else "f"}"\n' for n in range(100))
    tables += '[functions.g]\nhandler = "f.py:handler"\nmax_queue = 1\n'
    project.configure("def handler(event, context): return 1\n", tables)
    host = Host(project.config, project.client)
    before = threading.active_count()
    thread = threading.Thread(target=host.run)
    thread.start()
    try:
        until(lambda: project.client.llen("rq:queue:f") >= 500)
        assert threading.active_count() - before < 10
        assert project.client.llen("rq:queue:g") == 1
        first = answer_of_g(host)
        until(lambda: project.client.llen("rq:queue:g") == 1)
        assert answer_of_g(host) != first
    finally:
        host.stopping.set()
        thread.join(10)
    assert not thread.is_alive()


def answer_of_g(host):
    (claimed,) = host.publisher._ledger.claim("w", [Want(function="g", queues=("g",), most=1)], 1).claimed
    return claimed.id
