"""Handing over when things go wrong: who listens besides, who stood still, who has no environment any more."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest
import redis

from broker.errors import StoreUnavailable
from broker.ledger import Ledger, Order, Want, audit
from broker.ledger.ledger import HANDED
from broker.worker import Worker
from tests.conftest import until
from tests.integration.test_hand_over import first_name, offered, offering, scene
from tests.integration.test_worker_odds import ECHO, turning

__all__ = ["scene"]

COUNTS = "def handler(event, context): open('runs', 'a').write('x')\n"
WAITS = """
import os, time
def handler(event, context):
    while not os.path.exists('go'): time.sleep(0.01)
"""


def runs(project):
    return len((project.root / "runs").read_text())


@pytest.fixture
def single(project):
    """Return a worker that offers to run more of a function of one environment, and has nothing else on its way."""
    (project.root / "go").touch()
    worker = offering(project, WAITS, max=1)
    assert turning(worker, lambda: not (worker._demand.hungry or worker._pipelined.is_waiting))
    worker._pool.crew(worker.functions["f"]).pace = 1.0  # nothing is sent ahead
    (project.root / "go").unlink()
    yield worker
    (project.root / "go").touch()
    worker._end()


def claim_unheard(worker, project):
    """Have a worker claim, and offer again, before it hears of anything."""
    before = scripts_run(project)
    worker._demand.hungry.add("f")
    worker._claim(time.monotonic())
    worker._pipelined.flush()
    until(lambda: scripts_run(project) > before)


def scripts_run(project):
    return project.client.info("commandstats")["cmdstat_evalsha"]["calls"]


def test_what_others_hear_as_well_runs_once(project):
    worker = offering(project, COUNTS)
    watching = project.client.pubsub()
    watching.psubscribe("*")
    watching.get_message(timeout=10)
    try:
        (id,) = project.push("second")
        assert turning(worker, lambda: project.job(id)["status"] == "finished" and offered(project))
    finally:
        watching.close()
        worker._end()
    assert runs(project) == 2
    assert project.client.llen("rq:queue:f") == 0


def test_nothing_is_told_that_is_not_leased(scene):
    """A replica's subscribers would hear it, and begin it."""
    scene.offer("u", 10)
    scene.ledger.recover(worker="u", lease=100)
    watching = scene.client.pubsub()
    watching.psubscribe(HANDED + "*")
    watching.get_message(timeout=10)
    scene.publish("a")
    scene.client.publish(HANDED + "end", "")
    assert watching.get_message(timeout=10)["channel"] == (HANDED + "end").encode()
    watching.close()
    assert scene.waiting() == ["a"]


@pytest.mark.parametrize("lane", ["f.high", "f", "f.low"])
def test_nothing_is_handed_over_past_what_waits_in_another_lane(scene, lane):
    scene.client.rpush(f"rq:queue:{lane}", "x")
    scene.ledger.claim("w", [Want(function="f", queues=(), most=0, offer=10)], 1)
    scene.publish("a", queue="f.low")
    assert scene.client.lrange("rq:queue:f.low", -1, -1) == [b"a"]


def test_nothing_overtakes_what_is_taken_on_with_it_in_another_lane(scene):
    scene.offer("w", 10)
    big = Order(queue="f.high", id="a", data=b"x" * (2 << 20))
    scene.ledger.publish([[big], [Order(queue="f.low", id="b", data=b"x")]])
    assert scene.client.lrange("rq:queue:f.low", 0, -1) == [b"b"]


def test_who_stood_still_begins_nothing_of_before_that_it_hears_after_its_lease_was_renewed(project):
    project.configure(COUNTS)
    first = project.worker()
    project.ends(project.push("first")[0])
    until(lambda: offered(project))
    first.send_signal(signal.SIGSTOP)
    try:
        (id,) = project.push("x" * 1_000_000)  # it comes in pieces, and the lease's answer among them
        assert project.job(id)["status"] == "started"
        project.worker()
        assert project.ends(id)["attempt"] == "2"
    finally:
        first.send_signal(signal.SIGCONT)
    until(lambda: len(offered(project)) == 2)
    project.close()
    assert runs(project) == 2


def test_what_was_offered_before_the_lease_ran_out_is_given_back_when_it_is_heard_after(project):
    worker = offering(project)
    worker._lease._until = 0.0
    (id,) = project.push("second")
    (execution,) = [member.rpartition(b".")[2] for member in project.client.zrange("rq:wip:f", 0, -1)]
    try:
        worker._lease.renew(lambda: None)
        worker._pipelined.finish()
        assert worker._lease.holds()
        assert turning(worker, lambda: project.job(id)["status"] == "finished")
        assert project.job(id)["attempt"] == "1"
        assert worker._hand_over._first_of_term > int(execution, 16)
    finally:
        worker._end()


def test_what_is_handed_over_to_a_worker_that_has_become_busy_is_given_back(single, project):
    (one,) = project.push(1)
    claim_unheard(single, project)
    (two,) = project.push(2)
    assert (project.job(one)["status"], project.job(two)["status"]) == ("started", "started")
    assert turning(single, lambda: project.job(two)["status"] == "queued")
    assert project.job(two)["attempt"] == "0"
    assert project.job(one)["status"] == "started"


def test_an_offer_that_was_made_before_the_last_was_heard_of_is_taken_back_at_once(single, project):
    project.push(1)
    claim_unheard(single, project)
    assert offered(project)
    single._beat.at = float("inf")
    assert turning(single, lambda: not offered(project))


def test_what_is_claimed_for_a_place_that_was_handed_something_meanwhile_is_given_back(single, project):
    ids = project.push(1, 2)
    assert [project.job(id)["status"] for id in ids] == ["started", "queued"]
    claim_unheard(single, project)
    until(lambda: project.job(ids[1])["status"] == "started")
    assert turning(single, lambda: sorted(project.job(id)["status"] for id in ids) == ["queued", "started"])
    assert single._pool.running == 1


def test_an_offer_whose_withdrawal_was_lost_is_withdrawn_again(project):
    worker = offering(project)
    try:
        assert turning(worker, lambda: not (worker._demand.hungry or worker._pipelined.is_waiting))
        project.client.set("rq:suspended", 1)
        worker._claiming.claim([], welcome=False)
        worker._lose(StoreUnavailable("away"))
        assert offered(project)
        assert turning(worker, lambda: not offered(project))
    finally:
        worker._end()


def test_what_a_worker_of_the_same_name_offered_before_it_died_is_withdrawn(project):
    project.configure(ECHO)
    project.client.zadd("broker:idle:f", {"w": 500})
    worker = Worker(project.config, project.client, name="w")
    worker._begin()
    try:
        assert turning(worker, lambda: not offered(project))
    finally:
        worker._end()


BESIDE = """
[functions.g]
handler = "g.py:handler"
[sources.r]
kind = "./quiet.py:Quiet"
[[triggers]]
source = "r"
function = "g"
"""


def test_who_stood_still_begins_nothing_that_has_waited_in_its_hands_meanwhile(project):
    (project.root / "g.py").write_text(WAITS)
    project.configure(COUNTS, BESIDE, broker="environments = 1")
    first = project.worker()
    (g,) = project.push(1, source="r")
    project.ends(g, "started")
    (f,) = project.push(1)
    project.ends(f, "started")  # it waits there for room
    first.send_signal(signal.SIGSTOP)
    try:
        project.configure(COUNTS, BESIDE, broker="environments = 2")
        project.worker()
        project.ends(f)
    finally:
        (project.root / "go").touch()
        first.send_signal(signal.SIGCONT)
    until(lambda: project.client.zscore("broker:workers", first_name(project, first)))
    project.close()
    assert runs(project) == 1


@pytest.mark.parametrize("rights", ["resetchannels", "-publish", "-pubsub"])
def test_what_is_published_by_who_may_tell_nobody_is_taken_on_as_a_whole(scene, redis_server, rights):
    scene.client.execute_command("ACL", "SETUSER", "mute", "on", ">pw", "~*", "&*", "+@all", rights)
    scene.offer("w", 10)
    try:
        with redis.Redis.from_url(redis_server.url, username="mute", password="pw") as mute:
            order = Order(queue="f", id="a", data=b"x", track="q", event="e")
            with contextlib.suppress(redis.ResponseError):  # it may not ring either
                Ledger(mute).publish([[order]])
    finally:
        scene.client.execute_command("ACL", "DELUSER", "mute")
    assert (scene.leased(), scene.waiting()) == ([], ["a"])
    assert [account for account in audit(scene.client) if account.missing] == []


def test_who_may_not_ping_publishes_all_the_same(scene, redis_server):
    scene.client.execute_command("ACL", "SETUSER", "terse", "on", ">pw", "~*", "&*", "+@all", "-ping")
    scene.offer("w", 10)
    try:
        with redis.Redis.from_url(redis_server.url, username="terse", password="pw") as terse:
            ledger = Ledger(terse)
            answers = [ledger.publish([[Order(queue="f", id="a", data=b"x")]]) for _ in range(3)]
    finally:
        scene.client.execute_command("ACL", "DELUSER", "terse")
    assert answers == [[[1]], [[0]], [[0]]]
    assert scene.heard() == [("w", "a")]


@pytest.mark.parametrize("queue", ["f.low", "f", "f.high"])
def test_an_offer_that_is_not_taken_stands_as_it_stood(scene, queue):
    scene.client.rpush(f"rq:queue:{queue}", "before")
    scene.offer("w", 10, most=0)
    scene.client.expire("broker:idle:f", 7)
    scene.publish("a")
    assert scene.leased() == []
    assert scene.client.zscore("broker:idle:f", "w") == 10
    assert 0 < scene.client.ttl("broker:idle:f") <= 60
