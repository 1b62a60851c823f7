"""With `replicas` an event is accepted once the replicas have it: two real servers, one of which stands still."""

from __future__ import annotations

import signal
from functools import partial

import pytest
import redis

from broker.errors import StoreUnavailable
from broker.ledger import Ledger, Order, audit
from broker.ledger.jobs import job_data
from broker.ledger.values import ACCEPTED, DUPLICATE
from broker.store import connection
from tests.acceptance.running import free_port
from tests.conftest import PrivateServer, until


@pytest.fixture
def pair():
    port = free_port()
    master = PrivateServer("--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0")
    replica = PrivateServer("--replicaof", f"127.0.0.1 {port}")
    with redis.Redis.from_url(master.url) as client, redis.Redis.from_url(replica.url) as copy:
        until(lambda: client.wait(1, 10) == 1, within=30, what="the replica follows")
        yield client, copy, replica
    for server in (replica, master):
        server.close()


def order(id):
    return Order(queue="f", id=id, data=job_data("f", b"{}"))


def test_what_is_accepted_is_on_the_replica(pair):
    client, copy, _ = pair
    ledger = Ledger(client)
    assert ledger.publish([[order("a")], [order("b")]], replicas=1) == [[ACCEPTED], [ACCEPTED]]
    assert copy.lrange("rq:queue:f", 0, -1) == [b"a", b"b"]
    client.script_flush()
    assert ledger.publish([[order("c")]], replicas=1) == [[ACCEPTED]]


def test_what_no_replica_has_is_not_accepted_and_can_be_repeated(pair, monkeypatch):
    client, copy, replica = pair
    monkeypatch.setattr("broker.ledger.ledger.COPY_WITHIN", 200)
    ledger = Ledger(client)
    replica.process.send_signal(signal.SIGSTOP)
    for _ in range(2):  # the second time it is a duplicate, which writes nothing, and is not on the replica either
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            ledger.publish([[order("a")]], replicas=1)
    replica.process.send_signal(signal.SIGCONT)
    answer = until(lambda: published(ledger), within=30, what="the replica has it")
    assert answer == [[DUPLICATE]]
    assert copy.lrange("rq:queue:f", 0, -1) == [b"a"]
    assert [account.accepted for account in audit(client)] == [1]


def published(ledger):
    try:
        return ledger.publish([[order("a")]], replicas=1)
    except StoreUnavailable:
        return None


@pytest.mark.parametrize("make", [redis.Redis.from_url, partial(connection.open_url, patient=False)])
def test_a_replica_that_has_lost_its_master_takes_no_orders_until_it_is_master(pair, make):
    client, copy, replica = pair
    with make(replica.url) as heir:
        heir.config_set("replica-serve-stale-data", "no")
        client.shutdown(nosave=True)
        until(lambda: is_cut_off(copy), what="the replica has noticed")
        ledger = Ledger(heir)
        for call in (lambda: ledger.publish([[order("a")]]), lambda: ledger.recover(worker="w", lease=3)):
            with pytest.raises(StoreUnavailable):
                call()
        copy.replicaof("NO", "ONE")
        assert ledger.publish([[order("a")]]) == [[ACCEPTED]]


def is_cut_off(copy):
    try:
        copy.get("x")
    except redis.ResponseError as error:
        return "MASTER is down" in str(error)
    return False
