"""The ledger as a state machine: whatever is done to it, every accepted invocation is in exactly one place.

The rules do what publishers, workers, people and RQ's tools do, to functions with and without flow control, and let
time pass. After each step the real ledger must be where the model is (ledger_model.py), and the audit must agree.
"""

from __future__ import annotations

import itertools
import json
from typing import ClassVar

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule
from rq.job import Job
from rq.serializers import JSONSerializer

from broker.doorbell import MISSED, Subscription
from broker.flow import Flow
from broker.function import Batch
from broker.ledger import Claimed, Ledger, Order, Settlement, Want, audit
from broker.ledger.calls import handed
from broker.ledger.inspection import misplaced
from broker.ledger.jobs import job_data
from broker.ledger.ledger import HANDED
from broker.ledger.values import ACCEPTED, DUPLICATE, FULL
from tests.conftest import PrivateServer
from tests.integration.ledger_model import FUNCTIONS, LIMIT, LONG, Model, Owed, flow

NAMES = st.sampled_from(FUNCTIONS)
WORKERS = st.sampled_from(["w1", "w2", "w3"])
ANSWERS = {"accepted": ACCEPTED, "duplicate": DUPLICATE, "full": FULL}
PLACES = (
    "queued",
    "scheduled",
    "deferred",
    "leased",
    "dead",
    "finished",
    "dropped",
    "cancelled",
    "superseded",
    "vanished",
)


def lanes(function: str) -> tuple[str, str]:
    return (f"{function}.high", function)


class LedgerMachine(RuleBasedStateMachine):
    """Does the same to the model and to the real thing."""

    server: ClassVar[PrivateServer]
    ids = Bundle("ids")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.client = redis.Redis.from_url(self.server.url)
        self.client.flushall()
        self.ledger = Ledger(self.client)
        self.model = Model()
        self.executions = 1
        self.handed: list[Claimed] = []
        """What workers were told of and have not begun."""
        self.next_id = 0
        self.junk: set[str] = set()
        """Deleted records of which a moved due time has made something again."""

    def teardown(self) -> None:
        self.ears.close()
        self.client.close()

    @initialize()
    def begin(self) -> None:
        self.ears = Subscription(self.client, [HANDED + worker for worker in ("w1", "w2", "w3")])
        for worker in ("w1", "w2", "w3"):
            self.ledger.recover(worker=worker, lease=100_000)
        assert self.heard(3) == [(MISSED, b"")] * 3

    def heard(self, count: int) -> list[tuple[str, bytes]]:
        """Return what was said on the workers' channels; at least so much must come."""
        heard: list[tuple[str, bytes]] = []
        while len(heard) < count:
            heard += self.ears.heard(10)
        return heard

    def order(self, one: Owed, delay: float) -> Order:
        return Order(
            queue=one.queue,
            id=one.id,
            data=job_data(one.function, json.dumps({"id": one.id}).encode()),
            delay=delay,
            max_queue=LIMIT,
            flow=None if one.flow == Flow() else one.flow,
        )

    def job(self, id: str) -> Job:
        return Job.fetch(id, connection=self.client, serializer=JSONSerializer)

    def owed(self, id: str, *places: str) -> Owed | None:
        """Return the invocation if it is in one of the places and has its record."""
        one = self.model.owed.get(id)
        return one if one and one.place in places and not one.deleted else None

    @rule(
        target=ids,
        function=NAMES,
        high=st.booleans(),
        delay=st.sampled_from([0, 0, 0, LONG]),
        keys=st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4),
    )
    def publish(self, function: str, high: bool, delay: float, keys: list[str]) -> object:
        queue = lanes(function)[0 if high else 1]
        new = [
            Owed(id=f"i{self.next_id + n:03}", queue=queue, flow=flow(function, key) or Flow())
            for n, key in enumerate(keys)
        ]
        self.next_id += len(new)
        alone = not self.client.exists(*(f"rq:queue:{lane}" for lane in lanes(function)))
        answers = self.ledger.publish([[self.order(one, delay)] for one in new])
        expected = self.model.publish(new, delay)
        assert [(answer, getattr(answer, "other", "")) for (answer,) in answers] == [
            (ANSWERS[name], other) for name, other in expected
        ]
        self.hear(self.model.hand_over(new) if alone else [])
        return multiple(*(one.id for one in new if one.id in self.model.owed))

    def hear(self, expected: list[tuple[str, str, Owed]]) -> None:
        """Workers are told of just what was handed over to them; they have it from then on."""
        for (worker, execution, one), (channel, message) in zip(expected, self.heard(len(expected)), strict=True):
            (lease,) = handed(message).claimed
            assert self.model.take(one)
            assert (channel, lease.execution, lease.id) == (HANDED + worker, execution, one.id)
            assert (lease.queue, lease.attempt) == (one.queue, one.attempt)
            one.claimed, one.worker = lease, worker
            self.handed.append(lease)

    @precondition(lambda self: self.handed)
    @rule(target=leases)
    def take_over(self) -> object:
        taken, self.handed = self.handed, []
        return multiple(*([one] for one in taken))

    @rule(worker=WORKERS, function=NAMES)
    def withdraw(self, worker: str, function: str) -> None:
        self.ledger.claim(worker, [Want(function=function, queues=(), most=0, offer=-1)], 0)
        self.model.offer(function, worker, 0)

    @rule(id=ids)
    def publish_again(self, id: str) -> None:
        if one := self.owed(id, *PLACES[:6], "cancelled", "superseded"):
            assert self.ledger.publish([[self.order(one, 0)]]) == [[DUPLICATE]]

    @precondition(lambda self: self.model.those("queued", "scheduled"))
    @rule(
        target=leases,
        worker=WORKERS,
        function=NAMES,
        most=st.integers(1, 3),
        concurrency=st.sampled_from([0, 0, 2]),
        together=st.booleans(),
    )
    def claim(self, worker: str, function: str, most: int, concurrency: int, together: bool) -> object:
        batch = Batch(size=most) if together and not concurrency and function != "rate" else None
        claimed = self.lease(worker, [function], most, concurrency=concurrency, batch=batch)
        return multiple(*([claimed] if claimed else []))

    @rule(target=leases, worker=WORKERS)
    def claim_and_offer(self, worker: str) -> object:
        """Do as a worker at rest does; it gets nothing that is counted without its asking."""
        functions = [name for name in FUNCTIONS if name != "rate"]
        claimed = self.lease(worker, functions, 1, offers=True)
        return multiple(*([one] for one in claimed))

    def lease(
        self,
        worker: str,
        functions: list[str],
        most: int,
        *,
        concurrency: int = 0,
        batch: Batch | None = None,
        offers: bool = False,
    ) -> list[Claimed]:
        model, expected, wants = self.model, [], []
        first, number = self.executions, self.executions + len(functions) * most
        for function in functions:
            leased = self.leased(function, model.room(function, most, concurrency))
            interval = LONG if function == "rate" else 0
            offer, number = (number, number + 1) if offers else (0, number)
            wants.append(
                Want(
                    function=function,
                    queues=lanes(function),
                    most=most,
                    concurrency=concurrency,
                    interval=interval,
                    batch=batch,
                    offer=offer,
                )
            )
            if offers:
                model.offer(function, worker, 0 if leased else offer)
            expected += leased
        self.executions = number
        claimed = self.ledger.claim(worker, wants, first).claimed
        assert [one.id for one in claimed] == [one.id for one in expected]
        for one, lease in zip(expected, claimed, strict=True):
            one.claimed, one.worker = lease, worker
            assert lease.attempt == one.attempt
        return claimed

    def leased(self, function: str, most: int) -> list[Owed]:
        """Return what a claim of a function leases."""
        leased: list[Owed] = []
        for queue in lanes(function):
            listed = [id.decode() for id in self.client.lrange(f"rq:queue:{queue}", 0, -1)]
            due = {one.id for one in self.model.due(queue)}
            self.junk |= {id for id in due if self.model.owed[id].deleted}
            listed += [id for key in self.client.zrange(f"rq:scheduled:{queue}", 0, -1) if (id := key.decode()) in due]
            taken = [self.model.owed[id] for id in listed[: most - len(leased)]]
            leased += [one for one in taken if self.model.take(one)]
        return leased

    @rule(claimed=leases, verdict=st.sampled_from(["finished", "finished", "retry", "later", "dead", "release"]))
    def settle(self, claimed: list[Claimed], verdict: str) -> None:
        """Leases stay in the bundle: settling one twice, or one that was lost, must be refused."""
        name, delay = ("retry", LONG) if verdict == "later" else (verdict, 0)
        alike: dict[tuple[object, ...], list[Claimed]] = {}
        for one in claimed:  # a batch is settled together, for as far as there is the same to tell
            alike.setdefault((one.queue, one.execution, one.told, one.attempt > 1), []).append(one)
        expected = [
            self.model.settle(self.model.owed[one.id], one, name, delay) for group in alike.values() for one in group
        ]
        settlements = [
            Settlement(
                verdict=name,
                queue=first.queue,
                id=first.id,
                execution=first.execution,
                others=tuple(one.id for one in others),
                delay=delay,
                failed=name == "retry",
                told=first.told,
                again=first.attempt > 1,
            )
            for first, *others in alike.values()
        ]
        assert self.ledger.settle(self.model.owed[claimed[0].id].worker, settlements) == expected

    @precondition(lambda self: any(one.runs for one in self.model.owed.values()))
    @rule(worker=WORKERS)
    def worker_dies(self, worker: str) -> None:
        lost = self.model.recover(worker)
        assert {id for _, id, _ in self.ledger.recover(dead=[worker]).recovered} == lost
        self.ledger.recover(worker=worker, lease=100_000)

    @rule()
    def worker_beats(self) -> None:
        self.model.look_at_turns()
        assert self.ledger.recover(worker="w1", lease=100_000).recovered == []

    @precondition(lambda self: self.model.those("dead"))
    @rule(data=st.data(), verdict=st.sampled_from(["replay", "drop"]))
    def dead_letter(self, data: st.DataObject, verdict: str) -> None:
        one = data.draw(st.sampled_from(self.model.those("dead")))
        letter = Settlement(verdict=verdict, queue=one.queue, id=one.id)
        assert self.ledger.settle("cli", [letter]) == [True]
        assert self.ledger.settle("cli", [letter]) == [False]
        if verdict == "drop":
            one.place = "dropped"
        else:
            self.model.stand_in_line(one)

    @precondition(lambda self: self.model.those("dead"))
    @rule(data=st.data())
    def rq_requeues(self, data: st.DataObject) -> None:
        """RQ knows nothing of turns: claim must keep it back if another has its turn."""
        one = data.draw(st.sampled_from(self.model.those("dead")))
        self.job(one.id).requeue()
        one.place = "queued"

    @rule(id=ids)
    def rq_cancels(self, id: str) -> None:
        if one := self.owed(id, "queued", "scheduled", "deferred", "leased"):
            self.job(id).cancel()
            one.lingers = one.place == "leased"
            one.place = "cancelled"

    @rule(id=ids)
    def somebody_deletes_the_record(self, id: str) -> None:
        if one := self.owed(id, "queued", "scheduled", "deferred", "leased"):
            self.client.delete(f"rq:job:{id}")
            one.deleted = True

    @rule(seconds=st.sampled_from([400, 1100]))
    def time_passes(self, seconds: int) -> None:
        """Put all that is stored of moments so much earlier: the server's clock cannot be moved."""
        self.model.now += seconds
        client = self.client
        for key in client.keys("rq:scheduled:*"):
            for id in client.zrange(key, 0, -1):
                client.zincrby(key, -seconds, id)
        for key in client.keys("broker:rate:*"):
            client.set(key, int(client.get(key)) - seconds * 1_000_000, keepttl=True)
        for key in client.keys("broker:debounce:*"):
            first, _, id = client.get(key).decode().partition(":")
            client.set(key, f"{float(first) - seconds:.3f}:{id}", keepttl=True)
        for key in [*client.keys("broker:unique:*"), *client.keys("broker:debounce:*"), *client.keys("broker:rate:*")]:
            client.pexpire(key, client.pttl(key) - seconds * 1000)

    @invariant()
    def every_invocation_is_in_one_place(self) -> None:
        accounts = audit(self.client)
        for account in accounts:
            assert account.missing == 0, account
            mine = [one.place for one in self.model.owed.values() if one.queue == account.queue]
            assert {name: getattr(account, name) for name in PLACES} == {name: mine.count(name) for name in PLACES}
            assert account.accepted == len(mine)
        deleted = {one.id for one in self.model.owed.values() if one.deleted} - self.junk
        assert {one.id for one in misplaced(self.client, [account.queue for account in accounts])} == deleted

    @invariant()
    def of_each_key_one_is_in_play_and_the_others_wait_in_order(self) -> None:
        holders = {
            turn.decode(): value.decode().split(":")[1] for turn, value in self.client.hgetall("broker:turns").items()
        }
        turns = self.model.turns
        assert holders == {name: turn.holder.id for name, turn in turns.items() if turn.holder}
        for name, turn in turns.items():
            line = [entry.decode().partition(":")[2] for entry in self.client.lrange(f"broker:turn:{name}", 0, -1)]
            assert line == [one.id for one in turn.line]
        running = [one.flow.turn for one in self.model.owed.values() if one.runs and one.flow.turn]
        assert len(running) == len(set(running))

    @invariant()
    def the_rate_is_never_exceeded(self) -> None:
        starts = self.model.starts
        assert all(later - one >= LONG for one, later in itertools.pairwise(starts))


def test_every_invocation_is_in_one_place_whatever_is_done(redis_server):
    LedgerMachine.server = redis_server
    machine = LedgerMachine.TestCase
    machine.settings = settings(max_examples=80, stateful_step_count=50, suppress_health_check=list(HealthCheck))
    machine("runTest").runTest()
