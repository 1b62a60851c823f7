"""Servers: a Redis of one's own that keeps an append-only file, is killed and started again; two with a sentinel."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.store.binary import find_binary
from tests.acceptance.running import free_port
from tests.conftest import until


class OwnServer:
    """One Redis on a port of this machine and on a socket; it keeps its port and its file when it starts again."""

    def __init__(self, folder: Path, *options: str, environ: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder, self.port, self.socket = folder, free_port(), folder / "s"
        self._options, self._environ = options, environ or {}
        self.process: subprocess.Popen[bytes] | None = None

    def client(self) -> redis.Redis:
        """Return one that repeats nothing by itself."""
        return redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=20)

    def start(self, *options: str, wait: bool = True) -> None:
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        words += ["--appendonly", "yes", "--logfile", str(self.folder / "log"), "--enable-debug-command", "local"]
        self.process = subprocess.Popen(
            [find_binary(), *words, *self._options, *options], env={**os.environ, **self._environ}
        )
        if wait:
            until(self.answers, within=30, what="the server answers")

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Guarded:
    """A master, its replica, and the sentinel that makes the one out of the other."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.pair = [
            OwnServer(folder / name, *options, "--repl-diskless-sync-delay", "0", "--min-replicas-to-write", "1")
            for name in ("one", "two")
        ]
        self.guard = free_port()
        self._conf = folder / "sentinel.conf"
        first, second = self.pair
        first.start()
        second.start("--replicaof", f"127.0.0.1 {first.port}")
        self._conf.write_text(
            f"port {self.guard}\nbind 127.0.0.1\nsentinel monitor events 127.0.0.1 {first.port} 1\n"
            "sentinel down-after-milliseconds events 1500\nsentinel failover-timeout events 2000\n"
        )
        self._sentinel = subprocess.Popen(
            [find_binary(), self._conf, "--sentinel"], cwd=folder, stdout=subprocess.DEVNULL
        )
        until(self.in_step, within=30, what="the sentinel knows both, and the replica is in step")

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.guard}/events"

    def watch(self) -> redis.Redis:
        return redis.Redis(port=self.guard, decode_responses=True, retry=Retry(NoBackoff(), 0))

    def master(self) -> OwnServer | None:
        """Return the one that the sentinel names, if it answers as a master."""
        with suppress(redis.RedisError, OSError), self.watch() as watch:
            _, port = watch.sentinel_get_master_addr_by_name("events")
            for server in self.pair:
                if server.port == int(port):
                    with server.client() as client:
                        return server if client.info("replication")["role"] == "master" else None
        return None

    def in_step(self) -> bool:
        """Say whether there is a master, and a replica that has all of its data."""
        if (master := self.master()) is None:
            return False
        with suppress(redis.RedisError, OSError), self.watch() as watch, master.client() as client:
            if not watch.sentinel_slaves("events"):
                return False
            found = client.info("replication")
            return found["connected_slaves"] == 1 and found["slave0"]["state"] == "online" and bool(client.wait(1, 100))
        return False

    def fail_over(self) -> float:
        """Kill the master; return the moment at which the other is one. The killed one comes back as its replica."""
        old = until(self.master)
        old.kill()
        until(lambda: (new := self.master()) is not None and new is not old, within=30, what="the sentinel fails over")
        now = time.monotonic()
        new = until(self.master)
        old.start("--replicaof", f"127.0.0.1 {new.port}")
        return now

    def close(self) -> None:
        self._sentinel.kill()
        self._sentinel.wait()
        for server in self.pair:
            server.kill()
