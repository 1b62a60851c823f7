"""A broker as a person runs it: a project folder, the real `broker` command in it, and all of its processes.

Every process that is started here gets a TMPDIR of the project's own, which the embedded server, the nursery, the
environments and what functions start inherit. So each of them can be found, wherever in the tree it has gone.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import redis

from broker import config as configuration
from broker.errors import StoreError
from broker.event import new_event
from broker.ledger import Ledger, audit
from broker.publisher import Publisher
from broker.store import connection as store
from tests.conftest import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.ledger import Account

REPOSITORY = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("broker"))
"""What installing the package put beside the interpreter."""


class Broker:
    """One project folder; its broker is started, interrupted, killed and asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.up: subprocess.Popen[bytes] | None = None
        self.screen = root / "screen.txt"
        """What `broker up` has printed, all starts after one another."""
        self._others: list[subprocess.Popen[bytes]] = []
        self._open = ExitStack()
        self.extra_environ: dict[str, str] = {}
        """What its processes get besides."""
        self._temporary = root / "tmp"
        self._temporary.mkdir(parents=True)

    def ship(self) -> None:
        """Put in the configuration and the functions that ship, with a free port instead of 8000."""
        shutil.copytree(REPOSITORY / "handlers", self.root / "handlers", ignore=shutil.ignore_patterns("__pycache__"))
        self.port = free_port()
        text = (REPOSITORY / "config.toml").read_text()
        text = text.replace('kind = "http"\n', f'kind = "http"\nlisten = "127.0.0.1:{self.port}"\n')
        (self.root / "config.toml").write_text(text)

    def configure(self, text: str, **files: str) -> None:
        """Write config.toml, and each NAME.py."""
        (self.root / "config.toml").write_text(text)
        for name, code in files.items():
            (self.root / f"{name}.py").write_text(code)

    # -- processes ---------------------------------------------------------------------------------------------------

    @property
    def environ(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BROKER_", "PYTEST_", "COV_", "COLUMNS", "LINES"))
        }
        return {**kept, **self.extra_environ, "TMPDIR": str(self._temporary)}

    def start(self) -> None:
        """Run `broker up` and wait until its workers and sources are there."""
        screen = self._open.enter_context(self.screen.open("ab"))
        self.up = subprocess.Popen(
            [COMMAND, "up"], cwd=self.root, env=self.environ, stdout=screen, stderr=screen, start_new_session=True
        )
        workers = self.config.settings.workers
        until(
            self._answers, within=60, every=0.02, what=lambda: f"Redis answers; the screen:\n{self.screen.read_text()}"
        )
        self.client = store.connect(self.config, wait=True)
        until(lambda: self._has_workers(workers), within=60, what=self.screen.read_text)
        for source in self.config.sources.values():
            if isinstance(folder := getattr(source, "path", None), str):  # the host makes it when it begins to watch
                until((self.root / folder).is_dir, within=60, what=self.screen.read_text)

    def start_another(self, *arguments: str, output: Path) -> subprocess.Popen[bytes]:
        """Run another command of broker's in this project, such as `worker`, until `close`."""
        into = self._open.enter_context(output.open("ab"))
        process = subprocess.Popen(
            [COMMAND, *arguments], cwd=self.root, env=self.environ, stdout=into, stderr=into, start_new_session=True
        )
        self._others.append(process)
        return process

    def run(self, *arguments: str, given: str = "", within: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with `given` as its standard input."""
        return subprocess.run(
            [COMMAND, *arguments],
            cwd=self.root,
            env=self.environ,
            input=given,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )

    def interrupt(self, within: float = PATIENCE) -> int:
        """Press Ctrl-C: SIGINT to the foreground process group. Returns the exit code."""
        assert self.up is not None
        os.killpg(self.up.pid, signal.SIGINT)
        return self._ended(within)

    def killed(self) -> None:
        """Wait for the end of `broker up`, which somebody has killed, and of what it had started."""
        assert self._ended(10) == -signal.SIGKILL

    def processes(self) -> list[psutil.Process]:
        """Return every living process of this project: by its TMPDIR, its arguments, or the folder it is in."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def close(self) -> None:
        """End whatever is left; nothing of it outlives the test."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in (self.up, *self._others):
            if process is not None:
                process.wait(30)
        self._open.close()
        until(lambda: not self.processes(), every=0.05, what="every process of the project ends")

    def _ended(self, within: float) -> int:
        assert self.up is not None
        self.client.close()
        up, self.up = self.up, None
        try:
            return up.wait(within)
        except subprocess.TimeoutExpired:
            self.up = up  # for `close`
            raise

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            folder = str(self.root)
            return (
                process.environ().get("TMPDIR") == str(self._temporary)
                or any(folder in word for word in process.cmdline())
                or f"{process.cwd()}/".startswith(f"{folder}/")
            )
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            return False

    def _has_workers(self, count: int) -> bool:
        try:
            return self.living_workers() >= count
        except redis.ConnectionError:  # what answered was the server of a broker that was killed, on its way out
            return False

    def _answers(self) -> bool:
        assert self.up is not None
        assert self.up.poll() is None, self.screen.read_text()
        try:
            store.connect(self.config).close()
        except StoreError:
            return False
        return True

    # -- what is owed ------------------------------------------------------------------------------------------------

    @property
    def config(self) -> configuration.Config:
        return configuration.load(self.root / "config.toml")

    def living_workers(self) -> int:
        """Return how many workers hold a lease that has not run out."""
        seconds, microseconds = self.client.time()
        return int(self.client.zcount("broker:workers", seconds * 1000 + microseconds // 1000, "+inf"))

    def push(self, source: str, data: Sequence[object]) -> list[str]:
        """Publish messages as `broker push` does; return the ids of their invocations."""
        publisher = Publisher(self.config, Ledger(self.client))
        events = [new_event(source=source, type="queue.message", data=one) for one in data]
        return [id_ for receipt in publisher.publish(events) for id_ in receipt.invocations]

    def account(self, queue: str) -> Account:
        """Return the books of one queue; they add up at every moment."""
        accounts = books(self.client)
        return accounts[queue]

    def all_ended(self, queue: str, count: int, *, within: float) -> Account:
        """Wait until so many invocations of a queue have finished and nothing of it is left; return its books."""

        def ended() -> Account | None:
            account = books(self.client).get(queue)
            return account if account and account.finished >= count and not account.queued + account.leased else None

        account: Account = until(ended, within=within, every=0.05, what=lambda: str(books(self.client).get(queue)))
        return account


def books(client: redis.Redis) -> dict[str, Account]:
    """Return the books of every queue; they add up, whenever one looks."""
    accounts = {account.queue: account for account in audit(client)}
    assert [account for account in accounts.values() if account.missing] == []
    return accounts


def leased(client: redis.Redis, queue: str, worker: str = "") -> dict[str, str]:
    """Return what is leased: invocation -> worker; of one worker, or of all."""
    found = {}
    for member in client.zrange(f"rq:wip:{queue}", 0, -1):
        id_, _, execution = member.decode().partition(":")
        name = re.sub(r"\.[0-9a-f]+$", "", execution)
        if worker in {"", name}:
            found[id_] = name
    return found


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
