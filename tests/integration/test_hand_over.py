"""What is published while a worker has nothing to do is leased to it at once, and told to it alone."""

from __future__ import annotations

import os
import signal
import time

import pytest

from broker.doorbell import Subscription
from broker.errors import StoreUnavailable
from broker.flow import Flow
from broker.ledger import Ledger, Order, Want
from broker.ledger.calls import handed
from broker.ledger.jobs import job_data
from broker.ledger.ledger import HANDED, WAKE
from broker.worker import Worker
from tests.conftest import until
from tests.integration.test_worker_odds import ECHO, turning


class Scene:
    """A ledger, and what workers w and v hear of it."""

    def __init__(self, client):
        self.client = client
        self.ledger = Ledger(client)
        self.ears = Subscription(client, [HANDED + "w", HANDED + "v", WAKE])
        heard = []
        while len(heard) < 3:
            heard += self.ears.heard(10)
        for worker in ("w", "v"):
            self.ledger.recover(worker=worker, lease=100)

    def offer(self, worker, number, *, most=1):
        return self.ledger.claim(worker, [Want(function="f", queues=("f",), most=most, offer=number)], 1).claimed

    def publish(self, *ids, queue="f", **more):
        orders = [Order(queue=queue, id=id, data=job_data("f", b"1"), **more) for id in ids]
        assert self.ledger.publish([[one] for one in orders]) == [[1]] * len(ids)

    def heard(self):
        """Return what was said until now: (worker, id) of what was handed over, (WAKE, queue) of what waits."""
        self.client.publish(WAKE, "end")
        heard = []
        while not heard or heard[-1] != (WAKE, b"end"):
            heard += self.ears.heard(10)
        return [
            (channel, data.decode()) if channel == WAKE else (channel.removeprefix(HANDED), handed(data).claimed[0].id)
            for channel, data in heard[:-1]
        ]

    def leased(self):
        return [member.decode() for member in self.client.zrange("rq:wip:f", 0, -1)]

    def waiting(self):
        return [id.decode() for id in self.client.lrange("rq:queue:f", 0, -1)]


@pytest.fixture
def scene(redis_client):
    scene = Scene(redis_client)
    yield scene
    scene.ears.close()


def test_who_offered_is_leased_the_first_and_the_others_wait(scene):
    assert scene.offer("w", 10) == []
    scene.publish("a", "b")
    assert (scene.leased(), scene.waiting()) == (["a:w.a"], ["b"])
    assert scene.heard() == [("w", "a"), (WAKE, "f")]
    scene.publish("c")  # an offer is for one
    assert scene.waiting() == ["b", "c"]


def test_nobody_else_is_woken_for_what_was_handed_over(scene):
    scene.offer("w", 10)
    scene.publish("a")
    assert scene.heard() == [("w", "a")]


def test_of_several_the_one_that_has_run_most_goes_first(scene):
    scene.offer("w", 10)
    scene.offer("v", 11)
    scene.publish("a", "b")
    assert scene.heard() == [("v", "a"), ("w", "b")]


def test_what_a_worker_hears_is_what_a_claim_would_have_told_it(scene):
    scene.offer("w", 10)
    ears = Subscription(scene.client, [HANDED + "u"])
    list(ears.heard(10))
    scene.ledger.recover(worker="u", lease=100)
    scene.offer("u", 300)
    data = job_data("f", b'"a\\nb"')
    before = int(time.time() * 1000)
    scene.ledger.publish([[Order(queue="f", id="a", data=data, reply="r")]])
    ((_, message),) = list(ears.heard(10))
    ears.close()
    (one,) = handed(message).claimed
    assert (one.queue, one.id, one.execution, one.event) == ("f", "a", "u.12c", b'"a\\nb"')
    assert (one.attempt, one.failures, one.crashes, one.told, one.foreign) == (1, 0, 0, True, False)
    assert before <= one.accepted_ms <= time.time() * 1000
    record = scene.client.hgetall("rq:job:a")
    assert (record[b"status"], record[b"worker_name"], record[b"attempt"]) == (b"started", b"u", b"1")


def withdraws(scene):
    scene.ledger.claim("w", [Want(function="f", queues=(), most=0, offer=-1)], 1)


def is_suspended(scene):
    scene.client.set("rq:suspended", 1)


def has_no_lease(scene):
    scene.client.zadd("broker:workers", {"w": 1})


def is_unknown(scene):
    scene.client.zrem("broker:workers", "w")


def hears_nothing(scene):
    scene.ears.close()
    until(lambda: dict(scene.client.pubsub_numsub(HANDED + "w"))[(HANDED + "w").encode()] == 0)


def others_wait(scene):
    scene.client.rpush("rq:queue:f", "x")


@pytest.mark.parametrize("why", [withdraws, is_suspended, has_no_lease, is_unknown, hears_nothing, others_wait])
def test_it_waits_in_its_queue_when_a_worker_that_offered(scene, why):
    scene.offer("w", 10)
    why(scene)
    scene.publish("a")
    assert (scene.leased(), scene.waiting()[-1]) == ([], "a")


def test_an_offer_falls_when_there_was_something_to_claim(scene):
    scene.publish("a")
    assert [one.id for one in scene.offer("w", 10)] == ["a"]
    scene.publish("b")
    assert scene.waiting() == ["b"]


@pytest.mark.parametrize("more", [{"delay": 60}, {"flow": Flow(debounce="f:k", quiet=60)}])
def test_what_is_to_wait_is_not_handed_over(scene, more):
    scene.offer("w", 10)
    scene.publish("a", **more)
    assert (scene.leased(), scene.client.zcard("rq:scheduled:f")) == ([], 1)


def test_only_the_holder_of_a_turn_is_handed_over(scene):
    scene.offer("w", 10)
    scene.offer("v", 11)
    scene.publish("a", "b", flow=Flow(turn="f:k"))
    assert scene.leased() == ["a:v.b"]
    assert scene.client.hget("broker:turns", "f:k") == b"f:a:v.b"
    assert scene.client.zrange("rq:deferred:f", 0, -1) == [b"b"]


def test_what_is_very_long_is_not_told_twice_over(scene):
    scene.offer("w", 10)
    scene.ledger.publish([[Order(queue="f", id="a", data=b"x" * (2 << 20))]])
    assert scene.waiting() == ["a"]


def test_who_claims_without_a_lease_gets_one_that_runs_out(scene):
    scene.publish("a")
    scene.client.zrem("broker:workers", "w")
    assert scene.offer("w", 10)
    scene.client.zincrby("broker:workers", -5000, "w")
    assert [id for _, id, _ in scene.ledger.recover().recovered] == ["a"]


# -- the worker --------------------------------------------------------------------------------------------------------


def offering(project, code=ECHO, **options):
    """Return a worker of this process that has run one, and offers to run more."""
    project.configure(code, **options)
    worker = Worker(project.config, project.client)
    worker._begin()
    (id,) = project.push("first")
    assert turning(worker, lambda: project.job(id)["status"] == "finished")
    assert turning(worker, lambda: offered(project))
    return worker


def offered(project):
    return project.client.zrange("broker:idle:f", 0, -1)


def test_a_worker_at_rest_runs_what_it_is_handed_and_offers_again(project):
    worker = offering(project)
    try:
        for number in range(1, 6):
            (id,) = project.push(number)
            assert project.job(id)["status"] == "started"
            assert project.job(id)["worker_name"] == worker.name
            assert turning(worker, lambda n=number: project.client.zcard("rq:finished:f") == n + 1)
            assert turning(worker, lambda: offered(project))
    finally:
        worker._end()
    assert not offered(project)


@pytest.mark.parametrize("options", [{"concurrency": 1}, {"rate": "1000/s"}, {"batch": {"size": 2, "window": "0s"}}])
def test_what_claim_has_to_count_is_not_offered(project, options):
    project.configure(ECHO, **options)
    worker = Worker(project.config, project.client)
    worker._begin()
    try:
        (id,) = project.push(1)
        assert turning(worker, lambda: project.job(id)["status"] == "finished")
        turning(worker, lambda: False, within=1.2)  # a beat
        assert not offered(project)
    finally:
        worker._end()


def test_what_was_handed_over_and_not_heard_when_a_worker_ends_goes_back_as_if_it_had_never_been(project):
    worker = offering(project)
    (id,) = project.push("second")
    assert project.job(id)["status"] == "started"
    worker._end()
    record = project.job(id)
    assert (record["status"], record["attempt"], record.get("crashes")) == ("queued", "0", None)
    project.worker()
    assert project.ends(id)["attempt"] == "1"


def test_what_was_handed_over_after_the_signal_to_end_is_given_back(project):
    worker = offering(project)
    worker._shift.stop()
    (id,) = project.push("second")
    try:
        assert turning(worker, lambda: project.job(id)["status"] == "queued")
        assert not offered(project)
    finally:
        worker._end()
    assert project.job(id)["attempt"] == "0"


def test_who_is_suspended_takes_its_offer_back(project):
    worker = offering(project)
    try:
        project.client.set("rq:suspended", 1)
        assert turning(worker, lambda: not offered(project))
        project.client.delete("rq:suspended")
        assert turning(worker, lambda: offered(project))
    finally:
        worker._end()


def test_who_stood_still_beyond_its_lease_begins_nothing_that_it_was_handed(project):
    project.configure("import os\ndef handler(event, context): open('runs', 'a').write(f'{os.getppid()}\\n')\n")
    first = project.worker()
    (id,) = project.push("first")
    project.ends(id)
    until(lambda: offered(project))
    first.send_signal(signal.SIGSTOP)
    try:
        (id,) = project.push("second")
        assert project.job(id)["status"] == "started"
        project.worker()
        assert project.ends(id)["attempt"] == "2"
    finally:
        first.send_signal(signal.SIGCONT)
    until(lambda: project.client.zscore("broker:workers", first_name(project, first)))
    until(lambda: len(offered(project)) == 2)
    assert len((project.root / "runs").read_text().splitlines()) == 2


def first_name(project, process):
    (name,) = [name.decode() for name in project.client.smembers("rq:workers") if f"{process.pid}" in name.decode()]
    return name.removeprefix("rq:worker:")


def test_who_is_killed_while_it_offers_is_handed_nothing(project):
    project.configure(ECHO)
    first = project.worker()
    project.ends(project.push("first")[0])
    until(lambda: offered(project))
    (name,) = offered(project)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    until(lambda: dict(project.client.pubsub_numsub(HANDED + name.decode()))[HANDED.encode() + name] == 0)
    (id,) = project.push("second")
    assert project.job(id)["status"] == "queued"
    project.worker()
    assert project.ends(id)["attempt"] == "1"


def test_what_was_handed_over_and_lost_on_its_way_is_given_back_and_run(project, monkeypatch):
    worker = offering(project)
    take, lost = worker._hand_over.take, []
    monkeypatch.setattr(worker._hand_over, "take", lambda message, **_: lost.append(message))
    (id,) = project.push("second")
    try:
        assert turning(worker, lambda: lost)
        monkeypatch.undo()
        assert turning(worker, lambda: project.job(id)["status"] == "finished")
        assert project.job(id)["attempt"] == "1"
        worker._hand_over.refuse([handed(lost[0]).claimed[0].execution])
        take(lost[0], begin=True)  # it comes late
        assert worker._pool.running == 0
    finally:
        worker._end()


@pytest.mark.parametrize(
    "said", [b"", b"stop", b"\xff" * 20, b"f\na\nw.x\n1\n1\n1\n\n{}", b"f\na\nw.1\n1\n1\n1\n1 2\n{}"]
)
def test_what_is_no_invocation_ends_no_worker(project, said):
    worker = offering(project)
    try:
        assert project.client.publish(HANDED + worker.name, said) == 1
        (id,) = project.push("second")
        assert turning(worker, lambda: project.job(id)["status"] == "finished")
    finally:
        worker._end()


def test_while_redis_was_away_nothing_is_forgotten(project):
    worker = offering(project)
    try:
        worker._lose(StoreUnavailable("away"))
        (id,) = project.push("second")  # it is handed over to a connection that is not there any more, or waits
        assert turning(worker, lambda: project.job(id)["status"] == "finished")
    finally:
        worker._end()
