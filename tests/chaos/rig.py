"""Rig: a project whose broker runs with a second worker on the same Redis, under load, and can be hit anywhere."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import psutil
import redis

from broker import address
from broker.ledger import Ledger
from broker.publisher import Publisher
from broker.store import connection
from tests.acceptance.running import Broker
from tests.chaos.clock import Clock
from tests.chaos.load import Load, impatient
from tests.chaos.proxy import Proxy
from tests.chaos.records import HANDLERS, Records
from tests.chaos.servers import Guarded, OwnServer
from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Kind = Literal["everysec", "always", "external", "sentinel"]
"""Where Redis is: embedded, with one or the other `fsync`; one that the configuration names; two and a sentinel."""

QUEUES = ("work", "landed")

EVERY = 2
"""Seconds from one tick of the schedule to the next."""

CONFIG = """
[broker]
workers = 1
environments = 4
grace = "3s"
{broker}

[sources.web]
kind = "http"
route = "POST /web"
listen = "127.0.0.1:{port}"

[sources.inbox]
kind = "file"
path = "inbox"
scan = "1s"

[sources.jobs]
kind = "queue"

[sources.clock]
kind = "schedule"
every = "2s"
missed = "all"

[functions.work]
handler = "work.py:work"
keep = "2d"
on_success = "landed"
retry = {{ attempts = 100, backoff = "fixed", base = "20ms" }}

[functions.landed]
handler = "work.py:landed"
keep = "2d"
retry = {{ attempts = 100, backoff = "fixed", base = "20ms" }}
"""
TRIGGERS = "".join(
    f'\n[[triggers]]\nsource = "{name}"\nfunction = "work"\n' for name in ("web", "inbox", "jobs", "clock")
)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One invocation in the hands of a worker."""

    queue: str
    invocation: str
    execution: str

    @property
    def member(self) -> str:
        return f"{self.invocation}:{self.execution}"

    @property
    def worker(self) -> str:
        return self.execution.rpartition(".")[0]


class Rig:
    """All processes of one project. No machine knows the name of its second worker, as if that were on another host."""

    def __init__(self, root: Path, kind: Kind, *, seed: int = 0, patience: float = 60) -> None:
        self.root, self.kind, self.patience = root, kind, patience
        self.broker = Broker(root)
        self.proxies: list[Proxy] = []
        self.server: OwnServer | None = None
        self.guarded: Guarded | None = None
        self._far_number = 0
        self._far: subprocess.Popen[bytes] | None = None
        self._mounted = False
        self._clients: list[redis.Redis] = []
        self.clock, self.server_clock = Clock(root / "clock"), Clock(root / "server-clock")
        port = quiet_port()
        try:
            near, far = self._reach_redis()
            text = CONFIG.format(port=port, broker=near) + TRIGGERS
            self.broker.configure(text, work=HANDLERS)
            (root / "far.toml").write_text(text.replace(near, far) if near else text.replace("workers = 1", far))
            if kind == "external":
                self.broker.extra_environ = self.clock.environ
            self.broker.start()
            self.client, pushing = (impatient(self._connected(connection.open_url(self.url))) for _ in range(2))
            ledger = Ledger(self._connected(connection.open_url(self.url, patient=False)))
            self.load = Load(
                port=port,
                inbox=root / "inbox",
                client=pushing,
                publisher=Publisher(self.broker.config, ledger),
                replicas=self.broker.config.settings.replicas,
                seed=seed,
            )
            self.records = Records(root)
            self.mend()
        except BaseException:
            self.close()
            raise

    def _connected(self, client: redis.Redis) -> redis.Redis:
        self._clients.append(client)
        return client

    def _reach_redis(self) -> tuple[str, str]:
        """Start what Redis there is to start; return the settings of the broker, and those of the second worker."""
        if self.kind == "sentinel":
            self.guarded = Guarded(self.root / "redis", "--appendfsync", "always")
            self.url = self.guarded.url
            setting = f'redis = "{self.url}"\nreplicas = 1'
            return setting, setting
        if self.kind == "external":
            self.server = OwnServer(self.root / "redis", "--appendfsync", "always", environ=self.server_clock.environ)
            self.server.start()
            self.url = f"redis://127.0.0.1:{self.server.port}"
            self.proxies = [Proxy(self._to_server), Proxy(self._to_server)]
            near, far = (f'redis = "redis://127.0.0.1:{proxy.port}"' for proxy in self.proxies)
            return near, far
        data = self.root / ".broker"
        data.mkdir(mode=0o700)
        self._mount(data)
        self.url = address.url(address.find(data))
        self.proxies = [Proxy(self._to_embedded)]
        return f'fsync = "{self.kind}"', f'redis = "redis://127.0.0.1:{self.proxies[0].port}"'

    def _mount(self, data: Path) -> None:
        """Give the embedded server a small disk of its own, which can be filled; only root may."""
        self.disk = data
        if os.getuid() == 0 and shutil.which("mount"):
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m,mode=700", "tmpfs", data], check=False)
            self._mounted = done.returncode == 0

    @property
    def has_disk(self) -> bool:
        """Whether the embedded server has a disk of its own."""
        return self._mounted

    def _to_server(self) -> socket.socket:
        assert self.server is not None
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=5)

    def _to_embedded(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(str(address.find(self.root / ".broker")))
        except OSError:
            link.close()
            raise
        return link

    # -- processes ---------------------------------------------------------------------------------------------------

    @property
    def up(self) -> psutil.Process:
        assert self.broker.up is not None
        return psutil.Process(self.broker.up.pid)

    def child(self, role: str) -> psutil.Process | None:
        """Return the process of `broker up` that is its `worker`, its `host`, or its `valkey-server`."""
        for process in self.up.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if role in (process.name(), *process.cmdline()):
                    return process
        return None

    def near(self) -> psutil.Process:
        """Return the worker of `broker up`; waits for it."""
        found: psutil.Process = until(lambda: self.child("worker"), within=20)
        return found

    def far(self) -> psutil.Process:
        """Return the second worker."""
        assert self._far is not None
        return psutil.Process(self._far.pid)

    @property
    def far_name(self) -> str:
        return f"far-{self._far_number}"

    def near_name(self) -> str:
        """Return the name under which the worker of `broker up` holds leases."""
        pid = str(self.near().pid)
        names = (name.decode() for name in self.client.zrange("broker:workers", 0, -1))
        return next((name for name in names if name.split("-")[-2:-1] == [pid]), "-")

    def mend(self) -> None:
        """Start what is not there; return when both workers hold a lease and the broker takes requests."""
        if self.guarded is not None:
            until(self.guarded.in_step, within=60, what="the killed server is the replica now")
        if self.broker.up is None:
            self.broker.start()
        self.revive()
        until(self._well, within=60, what=lambda: f"both workers are there\n{self.broker.screen.read_text()[-3000:]}")

    def revive(self) -> None:
        """Start the second worker again if it has died, as whoever looks after that other machine would."""
        if self._far is None or self._far.poll() is not None:
            self._far_number += 1
            self._far = self.broker.start_another(
                "worker", "--name", self.far_name, "--config", "far.toml", output=self.root / "far.txt"
            )

    def _well(self) -> bool:
        try:
            names = {self.far_name, self.near_name()}
            seconds, _ = self.client.time()
            alive = {name.decode() for name in self.client.zrangebyscore("broker:workers", seconds * 1000, "+inf")}
        except (redis.RedisError, OSError):
            return False
        return names <= alive and self._listens()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.load._port), timeout=1).close()
        except OSError:
            return False
        return True

    # -- leases ------------------------------------------------------------------------------------------------------

    def leases(self, *workers: str) -> frozenset[Lease]:
        """Return what these workers hold; all of them, when none is named."""
        self.client.ping()  # so that what a worker had said before is carried out before we ask
        found = set()
        for queue in QUEUES:
            for member in self.client.zrange(f"rq:wip:{queue}", 0, -1):
                id_, _, execution = member.decode().partition(":")
                lease = Lease(queue=queue, invocation=id_, execution=execution)
                if not workers or lease.worker in workers:
                    found.add(lease)
        return frozenset(found)

    def passed_on(self, leases: Iterable[Lease]) -> bool:
        """Say whether none of these leases is held any more."""
        by_queue = {queue: [lease.member for lease in leases if lease.queue == queue] for queue in QUEUES}
        try:
            return not any(
                any(score is not None for score in self.client.zmscore(f"rq:wip:{queue}", members))
                for queue, members in by_queue.items()
                if members
            )
        except (redis.RedisError, OSError):
            return False

    @contextlib.contextmanager
    def standing_still(self, *processes: psutil.Process) -> Iterator[None]:
        """Stop processes, so that what they hold can be seen before they are hit; let those that live go on."""
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def wait_for_leases(self, *workers: str) -> None:
        """Return when these workers hold something."""
        until(lambda: self.leases(*workers), within=20, every=0.001, what=lambda: f"{workers} hold something")

    def close(self) -> None:
        """End all of it."""
        with contextlib.suppress(AttributeError):
            self.load.close()
        for client in self._clients:
            client.close()
        for proxy in self.proxies:
            proxy.close()
        self.broker.close()
        for server in (self.server, self.guarded):
            if server is not None:
                (server.kill if isinstance(server, OwnServer) else server.close)()
        if self._mounted:
            subprocess.run(["umount", "-l", self.disk], check=False)


def quiet_port() -> int:
    """Return a port that is free, and that nobody gets by chance while it is not listened on."""
    while True:
        port = random.randrange(10_000, 30_000)  # below what the kernel gives to those who do not ask for a certain one
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
