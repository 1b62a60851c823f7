"""The worker while Redis is away or hangs, and connections that lead to another server afterwards."""

from __future__ import annotations

import os
import signal
import socket

import pytest
import redis

from broker.errors import StoreUnavailable
from broker.ledger import Ledger, Want
from broker.store import connection
from tests.acceptance.running import free_port
from tests.chaos.proxy import Proxy
from tests.conftest import PrivateServer, until
from tests.integration.flow_driver import Driver

SLEEPER = """
import os, time

def handler(event, context):
    with open("pid", "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)
"""


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_timeout_is_enforced_while_redis_hangs(project, redis_server):
    project.configure(SLEEPER, timeout="2s", retry={"attempts": 1})
    project.worker()
    (id,) = project.push(1)
    pid = until(lambda: (project.root / "pid").exists() and (project.root / "pid").read_text())
    redis_server.process.send_signal(signal.SIGSTOP)  # it takes connections, and answers nothing
    try:
        until(lambda: is_gone(int(pid)), within=connection.SOCKET_TIMEOUT / 2, what="the environment is ended")
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    assert project.ends(id, "failed")["reason"] == "TimedOut"


class Moved:
    """A port that leads to one of several servers, as a name or an address does that follows the master."""

    def __init__(self, *servers: PrivateServer) -> None:
        self.servers = servers
        self.live = 0
        self.proxy = Proxy(self._reach)
        self.url = f"redis://127.0.0.1:{self.proxy.port}"

    def _reach(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX)
        link.connect(str(self.servers[self.live].socket))
        return link


@pytest.fixture
def moved():
    port = free_port()
    old, new = PrivateServer(), PrivateServer("--port", str(port), "--bind", "127.0.0.1")
    moved = Moved(old, new)
    yield moved, port
    moved.proxy.close()
    for server in moved.servers:
        server.close()


@pytest.mark.parametrize("hasty", [True, False])
def test_connections_leave_a_server_that_has_become_a_replica(moved, hasty):
    place, port = moved
    options = {"patient": False, "within": connection.HASTY_TIMEOUT} if hasty else {}
    with connection.open_url(place.url, **options) as client, redis.Redis.from_url(place.servers[0].url) as old:
        ledger = Ledger(client)
        ledger.recover(worker="w", lease=4)
        client.set("x", 1)
        old.replicaof("127.0.0.1", str(port))
        place.live = 1
        if hasty:
            with pytest.raises(StoreUnavailable):
                ledger.recover(worker="w", lease=4)
        ledger.recover(worker="w", lease=4)
        client.set("x", 2)
    with redis.Redis.from_url(place.servers[1].url) as new:
        assert (new.zcard("broker:workers"), new.get("x")) == (1, b"2")


def test_a_claim_whose_connection_broke_is_not_repeated_with_the_same_numbers(redis_server, redis_client):
    """It may have been carried out; the worker claims again, with others."""
    driver = Driver(redis_client)
    driver.publish(driver.order("a"))
    with connection.open_url(redis_server.url) as client:
        ledger, want = Ledger(client), Want(function="f", queues=("f",), most=1)
        ledger.recover()
        (line,) = ledger._line._free
        carried_out = line.read_response

        def lose(*arguments: object, **named: object) -> None:
            carried_out(*arguments, **named)
            raise redis.ConnectionError("the answer was lost")

        line.read_response = lose
        with pytest.raises(StoreUnavailable):
            ledger.claim("w", [want], 0)
        assert ledger.held_by("w", ["f"]) == [("f", "a", "w.0")]
        driver.publish(driver.order("b"))
        assert [one.execution for one in ledger.claim("w", [want], 1).claimed] == ["w.1"]
