"""The ledger as a state machine: whatever is done to it, every accepted invocation is in exactly one place."""

from __future__ import annotations

import json
from typing import ClassVar

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from rq.job import Job
from rq.serializers import JSONSerializer

from broker.ledger import Claimed, Ledger, Order, Settlement, Want, audit
from broker.ledger.ledger import ACCEPTED, DUPLICATE, FULL, job_data
from tests.conftest import PrivateServer

QUEUES = st.sampled_from(["f", "f.high", "g"])
WORKERS = st.sampled_from(["w1", "w2", "w3"])
LIMIT = 6


class LedgerMachine(RuleBasedStateMachine):
    """A model of where each invocation is, kept beside the real thing."""

    server: ClassVar[PrivateServer]
    ids = Bundle("ids")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.client = redis.Redis.from_url(self.server.url)
        self.client.flushall()
        self.ledger = Ledger(self.client)
        self.place: dict[str, str] = {}
        self.queue: dict[str, str] = {}
        self.holder: dict[str, Claimed] = {}
        self.worker_of: dict[str, str] = {}
        self.executions = 0
        self.next_id = 0
        self.ran: dict[str, int] = {}
        """How often each was claimed and not released; its attempt must say so."""

    def teardown(self) -> None:
        self.client.close()

    @initialize()
    def begin(self) -> None:
        for worker in ("w1", "w2", "w3"):
            self.ledger.recover(worker=worker, lease=1000)

    def waiting(self, queue: str) -> int:
        return sum(self.queue[id] == queue and place in {"queued", "scheduled"} for id, place in self.place.items())

    def order(self, id: str, queue: str, delay: float) -> Order:
        function = queue.partition(".")[0]
        return Order(
            queue=queue, id=id, data=job_data(function, json.dumps({"id": id}).encode()), delay=delay, max_queue=LIMIT
        )

    def some(self, place: str) -> bool:
        return place in self.place.values()

    @rule(target=ids, queue=QUEUES, delay=st.sampled_from([0, 0, 0, 1000]), count=st.integers(1, 4))
    def publish(self, queue: str, delay: float, count: int) -> object:
        new = [f"i{self.next_id + n}" for n in range(count)]
        self.next_id += count
        answers = self.ledger.publish([[self.order(id, queue, delay)] for id in new])
        for id, (answer,) in zip(new, answers, strict=True):
            assert answer == (ACCEPTED if self.waiting(queue) < LIMIT else FULL)
            if answer == ACCEPTED:
                self.place[id], self.queue[id] = ("scheduled" if delay else "queued"), queue
        return multiple(*new)

    @rule(id=ids)
    def publish_again(self, id: str) -> None:
        if id in self.place and self.place[id] != "dropped":
            ((answer,),) = self.ledger.publish([[self.order(id, self.queue[id], 0)]])
            assert answer == DUPLICATE

    @precondition(lambda self: self.some("queued"))
    @rule(target=leases, worker=WORKERS, queue=QUEUES, n=st.integers(1, 3), concurrency=st.sampled_from([0, 0, 2]))
    def claim(self, worker: str, queue: str, n: int, concurrency: int) -> object:
        held = sum(place == "leased" and self.queue[id][0] == queue[0] for id, place in self.place.items())
        want = Want(function=queue[0], queues=(queue,), most=n, concurrency=concurrency)
        claimed = self.ledger.claim(worker, [want], self.executions).claimed
        self.executions += len(claimed)
        waits = [id for id, place in self.place.items() if place == "queued" and self.queue[id] == queue]
        room = n if concurrency == 0 else max(0, min(n, concurrency - held))
        assert len(claimed) == min(room, len(waits))
        for one in claimed:
            assert self.place[one.id] == "queued"
            self.place[one.id] = "leased"
            self.holder[one.id], self.worker_of[one.id] = one, worker
            self.ran[one.id] = self.ran.get(one.id, 0) + 1
            assert one.attempt == self.ran[one.id]
        return multiple(*([claimed] if claimed else []))

    @rule(claimed=leases, verdict=st.sampled_from(["finished", "retry", "later", "dead", "release"]))
    def settle(self, claimed: list[Claimed], verdict: str) -> None:
        """Leases stay in the bundle: settling one twice, or one that was lost, must be refused."""
        wanted: list[tuple[Claimed, bool]] = []
        for one in claimed:
            current = self.place[one.id] == "leased" and self.holder[one.id].execution == one.execution
            wanted.append((one, current))
        if not wanted:
            return
        name = "retry" if verdict == "later" else verdict
        delay = 1000 if verdict == "later" else 0
        settlements = [
            Settlement(verdict=name, queue=one.queue, id=one.id, execution=one.execution, delay=delay, failed=True)
            for one in claimed
        ]
        assert self.ledger.settle("any", settlements) == [current for _, current in wanted]
        after = {"finished": "finished", "retry": "queued", "later": "scheduled", "dead": "dead", "release": "queued"}
        for one, current in wanted:
            if current:
                self.place[one.id] = after[verdict]
                self.ran[one.id] -= verdict == "release"

    @precondition(lambda self: self.some("leased"))
    @rule(worker=WORKERS)
    def worker_dies(self, worker: str) -> None:
        lost = {id for id, place in self.place.items() if place == "leased" and self.worker_of[id] == worker}
        assert {id for _, id, _ in self.ledger.recover(dead=[worker]).recovered} == lost
        for id in lost:
            self.place[id] = "queued"
        self.ledger.recover(worker=worker, lease=1000)

    @precondition(lambda self: self.some("dead"))
    @rule(id=ids, verdict=st.sampled_from(["replay", "drop"]))
    def dead_letter(self, id: str, verdict: str) -> None:
        queue = self.queue.get(id, "f")
        (written,) = self.ledger.settle("cli", [Settlement(verdict=verdict, queue=queue, id=id)])
        assert written == (self.place.get(id) == "dead")
        if written:
            self.place[id] = "queued" if verdict == "replay" else "dropped"

    @precondition(lambda self: self.some("dead"))
    @rule(id=ids)
    def rq_requeues(self, id: str) -> None:
        if self.place.get(id) == "dead":
            Job.fetch(id, connection=self.client, serializer=JSONSerializer).requeue()
            self.place[id] = "queued"

    @rule(id=consumes(ids))
    def rq_cancels(self, id: str) -> None:
        if self.place.get(id) in {"queued", "scheduled"}:
            Job.fetch(id, connection=self.client, serializer=JSONSerializer).cancel()
            self.place[id] = "cancelled"

    @invariant()
    def every_invocation_is_in_one_place(self) -> None:
        for account in audit(self.client):
            assert account.missing == 0, account
            mine = [place for id, place in self.place.items() if self.queue[id] == account.queue]
            for name in ("queued", "scheduled", "leased", "dead", "finished", "dropped", "cancelled"):
                assert getattr(account, name) == mine.count(name), (name, account)
            assert account.accepted == len(mine)


def test_every_invocation_is_in_one_place_whatever_is_done(redis_server):
    LedgerMachine.server = redis_server
    machine = LedgerMachine.TestCase
    machine.settings = settings(
        max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
    )
    machine("runTest").runTest()
