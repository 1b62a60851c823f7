"""Connecting to a Redis that the configuration names, and what it lacks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import redis

from broker.config import Config, Settings
from broker.doorbell import MISSED, Subscription
from broker.errors import StoreError, StoreMissing, StoreUnavailable
from broker.store import connection as store
from broker.store.binary import find_binary
from broker.store.embedded import Server
from tests.conftest import PrivateServer, until

if TYPE_CHECKING:
    from pathlib import Path


def config(root: Path, url: str | None = None) -> Config:
    return Config(
        path=root / "config.toml",
        root=root,
        settings=Settings(redis=url),
        functions={},
        sources={},
        kinds={},
        triggers=(),
    )


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@dataclass
class Servers:
    """Starts real servers and sentinels, and ends them."""

    started: list[PrivateServer] = field(default_factory=list)
    sentinels: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str) -> PrivateServer:
        self.started.append(PrivateServer(*arguments))
        return self.started[-1]

    def on_port(self, *arguments: str) -> tuple[PrivateServer, int]:
        port = free_port()
        server = self.start("--port", str(port), "--bind", "127.0.0.1", *arguments)
        return server, port

    def start_sentinel(self, settings: Path) -> subprocess.Popen[bytes]:
        self.sentinels.append(subprocess.Popen([find_binary(), settings, "--sentinel"], stdout=subprocess.DEVNULL))
        return self.sentinels[-1]


@pytest.fixture
def servers():
    servers = Servers()
    yield servers
    for sentinel in servers.sentinels:
        sentinel.kill()
        sentinel.wait()
    for server in servers.started:
        server.close()


def test_without_the_embedded_server_the_error_says_how_to_start_it(tmp_path):
    with pytest.raises(StoreMissing, match="broker up"):
        store.connect(config(tmp_path))


def test_the_embedded_server_is_found_in_its_folder_and_answers_in_bytes(tmp_path):
    with Server(tmp_path / ".broker"), store.connect(config(tmp_path)) as client:
        client.set("a", "b")
        assert client.get("a") == b"b"


def test_an_embedded_server_that_has_died_is_missing(tmp_path):
    dead = socket.socket(socket.AF_UNIX)
    (tmp_path / ".broker").mkdir()
    dead.bind(str(tmp_path / ".broker/redis.sock"))
    dead.close()
    with pytest.raises(StoreMissing, match="any more"):
        store.connect(config(tmp_path))


def test_a_password_in_the_url_is_used_and_never_shown(tmp_path, servers):
    _, port = servers.on_port("--requirepass", "pass word/@")
    with store.connect(config(tmp_path, f"redis://:pass%20word%2F%40@127.0.0.1:{port}/3")) as client:
        assert client.ping()
    wrong = config(tmp_path, f"redis://:hunter2@127.0.0.1:{port}")
    with pytest.raises(StoreError, match="refuses us") as refusal:
        store.connect(wrong)
    assert "hunter2" not in "".join(traceback.format_exception(refusal.value))


def test_where_nothing_listens_the_answer_comes_at_once_and_names_the_place(tmp_path):
    port = free_port()
    with pytest.raises(StoreUnavailable, match=rf"redis://127\.0\.0\.1:{port} does not answer"):
        store.connect(config(tmp_path, f"redis://me:hunter2@127.0.0.1:{port}?socket_timeout=3"))


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2/x@localhost:port/0",
        "redis://:hunter2#@localhost",
        "http://:hunter2@localhost",
        "sentinel://:hunter2@localhost",
        "sentinel://:hunter2@/service",
        "sentinel://:hunter2@one:2,:3/service",
        "sentinel://:hunter2@one:x/service",
    ],
)
def test_what_is_no_url_of_a_redis_is_refused_without_repeating_the_password(tmp_path, url):
    with pytest.raises(StoreError) as wrong:
        store.connect(config(tmp_path, url))
    assert "hunter2" not in "".join(traceback.format_exception(wrong.value))


def test_one_that_waits_gets_its_client_when_the_server_comes(tmp_path, caplog):
    got: list[redis.Redis] = []
    waiting = threading.Thread(target=lambda: got.append(store.connect(config(tmp_path), wait=True)))
    waiting.start()
    until(lambda: "waiting for Redis" in caplog.text)
    with Server(tmp_path / ".broker"):
        waiting.join(10)
        assert got[0].ping()
        got[0].close()


def test_a_client_outlives_a_restart_of_its_server(tmp_path):
    server = Server(tmp_path / ".broker")
    server.start()
    with store.connect(config(tmp_path)) as client:
        client.set("key", "value")
        os.kill(server.pid, signal.SIGKILL)
        until(server.collect)
        asking: list[bytes | None] = []
        thread = threading.Thread(target=lambda: asking.append(client.get("key")))
        thread.start()
        server.start()
        thread.join(10)
        assert asking == [b"value"]
    server.stop()


def test_sentinels_lead_to_the_new_master_when_the_old_one_dies(tmp_path, servers):
    old, first = servers.on_port("--requirepass", "pw", "--masterauth", "pw")
    _, second = servers.on_port("--requirepass", "pw", "--masterauth", "pw", "--replicaof", f"127.0.0.1 {first}")
    guard = free_port()
    (tmp_path / "sentinel.conf").write_text(
        f"port {guard}\nbind 127.0.0.1\nsentinel monitor events 127.0.0.1 {first} 1\nsentinel auth-pass events pw\n"
        "sentinel down-after-milliseconds events 300\nsentinel failover-timeout events 3000\n"
    )
    with redis.Redis(port=second, password="pw") as replica:
        until(lambda: replica.info("replication")["master_link_status"] == "up")
    sentinel = servers.start_sentinel(tmp_path / "sentinel.conf")
    with redis.Redis(port=guard, decode_responses=True) as watch:
        until(lambda: answers(watch) and watch.sentinel_slaves("events"), what="the sentinel knows the replica")

    with store.connect(config(tmp_path, f"sentinel://:pw@127.0.0.1:1,127.0.0.1:{guard}/events/2")) as client:
        client.set("key", "value")
        client.wait(1, 1000)
        old.process.kill()
        until(lambda: survives(client), within=20, what="the client follows to the new master")
        assert client.get("key") == b"value"
    assert sentinel.poll() is None


def test_a_master_that_was_replaced_is_left_although_it_still_takes_writes(tmp_path, servers):
    _, first = servers.on_port()
    _, second = servers.on_port("--replicaof", f"127.0.0.1 {first}")
    guard = free_port()
    (tmp_path / "sentinel.conf").write_text(
        f"port {guard}\nbind 127.0.0.1\nsentinel monitor events 127.0.0.1 {first} 1\n"
        "sentinel failover-timeout events 3000\n"
    )
    servers.start_sentinel(tmp_path / "sentinel.conf")
    with (
        redis.Redis(port=first) as old,
        redis.Redis(port=guard, decode_responses=True) as watch,
    ):
        until(lambda: answers(watch) and is_in_step(watch), what="the sentinel knows the replica")
        old.execute_command("ACL SETUSER", "default", "-replicaof", "-slaveof")  # no sentinel can make it a replica
        with store.connect(config(tmp_path, f"sentinel://127.0.0.1:{guard}/events")) as client:
            assert port_of(client) == first
            heard = Subscription(client, ["channel"])
            until(lambda: list(heard.heard(1)) == [(MISSED, b"")])
            waiting = threading.Thread(target=lambda: client.blpop("list", 15))
            waiting.start()
            until(lambda: old.info("clients")["blocked_clients"] == 1)
            watch.execute_command("SENTINEL", "FAILOVER", "events")
            until(lambda: port_of(client) == second, what="the client has left for the new master")
            assert (old.info("replication")["role"], old.set("key", "value")) == ("master", True)
            with pytest.raises(ConnectionError):
                list(heard.heard(20))
            client.rpush("list", "what waits for an answer of the old one asks the new one")
            waiting.join(20)
            assert client.llen("list") == 0
            heard.close()


def is_in_step(watch: redis.Redis) -> bool:
    return [one["master-link-status"] for one in watch.sentinel_slaves("events")] == ["ok"]


def port_of(client: redis.Redis) -> int:
    """Return the port of the server that answers; 0 when none does at the moment."""
    try:
        return int(client.info("server")["tcp_port"])
    except redis.RedisError:
        return 0


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def survives(client: redis.Redis) -> bool:
    try:
        return bool(client.set("other", "value"))
    except redis.RedisError:
        return False


def test_the_embedded_server_lacks_nothing(tmp_path):
    with Server(tmp_path / ".broker"), store.connect(config(tmp_path)) as client:
        assert store.complaints(client) == []
        assert store.describe(client).startswith("Valkey ")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--appendonly", "no", "--save", ""], "keeps nothing on disk"),
        (["--appendonly", "no", "--save", "60 1"], "since the last snapshot"),
        (["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"], "maxmemory-policy allkeys-lru"),
        (["--replicaof", "127.0.0.1 1"], "replica"),
        (["--cluster-enabled", "yes", "--port", "0"], "cluster"),
    ],
)
def test_a_server_that_would_lose_events_is_complained_about(servers, options, complaint):
    if "--cluster-enabled" in options:
        options = [*options[:2], "--port", str(free_port()), "--cluster-port", str(free_port())]
    server = servers.start("--appendonly", "yes", *options)
    with redis.Redis.from_url(server.url) as client:
        until(lambda: not client.info("persistence")["loading"])
        found = store.complaints(client)
    assert [one for one in found if complaint in one] == found


def test_a_server_that_others_may_use_without_a_password_is_complained_about(servers):
    # The minus lets the server start although the address is not this machine's.
    server, port = servers.on_port("--appendonly", "yes", "--protected-mode", "no")
    with redis.Redis.from_url(f"redis://127.0.0.1:{port}") as client:
        assert store.complaints(client) == []
        client.config_set("bind", "127.0.0.1 -192.0.2.1")
        assert [("listens beyond" in one) for one in store.complaints(client)] == [True]
        client.config_set("requirepass", "pw")
    with redis.Redis.from_url(f"redis://:pw@127.0.0.1:{port}") as client:
        assert store.complaints(client) == []
    assert server.process.poll() is None


def test_settings_that_a_server_does_not_tell_are_not_held_against_it(servers):
    server, port = servers.on_port("--appendonly", "yes", "--rename-command", "CONFIG", "")
    with redis.Redis.from_url(f"redis://127.0.0.1:{port}") as client:
        assert store.complaints(client) == []
    assert server.process.poll() is None
