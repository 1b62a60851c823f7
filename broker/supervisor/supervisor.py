"""Supervisor: the embedded server, the host and the workers of `broker up`; started, watched and stopped together.

It has one thread and one loop: listen to the children and to signals, then start again what has died. Nothing that it
starts outlives it, however it ends: the kernel sees to that (`broker.leash`).
"""

from __future__ import annotations

import selectors
import signal
import socket
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from broker import leash
from broker.errors import BrokerError, StoreMissing
from broker.quantity import Duration
from broker.store.lockfile import LockFile, take
from broker.supervisor.child import MISCONFIGURED, Child, Revival
from broker.supervisor.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from broker.config import Config
    from broker.store.embedded import Server

AT_ONCE = 3.0
"""Seconds that a child gets when it is to end without finishing anything; then it is killed."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_COUNTING = (0.3, AT_ONCE)
"""A child that was told nothing yet takes the first signal for "finish", and the second for "now"."""


def commands(config: Config) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the commands of the hosts and those of the workers of a configuration, each under its name."""

    def command(role: str) -> list[str]:
        return [sys.executable, "-m", "broker", role, "--supervised", "--config", str(config.path)]

    workers = {f"worker-{number}": command("worker") for number in range(1, config.settings.workers + 1)}
    return {"host": command("host")}, workers


def to_stderr(line: str) -> None:
    """Print a line for people."""
    print(line, file=sys.stderr, flush=True)


class Supervisor:
    """Everything of one broker on this machine; call `run` from the main thread.

    `server` is the embedded one of the data folder, or None when the configuration names a Redis. `hosts` bring events
    in and are stopped first; `workers` then get `grace` seconds to finish what they run. `started` is called when all
    of them have been started. `say` takes lines for people, those that the children print among them.
    """

    def __init__(
        self,
        *,
        data: Path,
        server: Server | None,
        hosts: Mapping[str, Sequence[str]],
        workers: Mapping[str, Sequence[str]],
        grace: float,
        started: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = to_stderr,
    ) -> None:
        self._lock = LockFile(data / "lock")  # the server takes it itself
        self._server = server
        self._server_revival = Revival()
        self._hosts = [Child(name, argv) for name, argv in hosts.items()]
        self._workers = [Child(name, argv) for name, argv in workers.items()]
        self._grace = grace
        self._started = started
        self._print = say
        self._selector = selectors.DefaultSelector()
        self._asked = 0
        """How often we were asked to stop: once waits for what runs, twice does not, three times kills."""
        self._stopping = False
        self._tell_wait_at = 0.0
        self._disk = Disk(server, self._say) if server is not None else None

    def run(self) -> int:
        """Run until SIGINT, SIGTERM or SIGHUP; return the exit code. Nothing that was started is left then.

        It is 2, and nobody needs to ask, when a child ends at its first start with 2: it has said what is wrong with
        the configuration, and would say so for ever.

        Raises StoreError when the embedded server does not start, or another broker uses the data folder.
        """
        with self._hearing_signals():
            try:
                self._begin()
                while not self._asked and not self._hopeless():
                    self._listen(self._until_next_start())
                    self._revive()
            except _AskedToStop:
                pass
            finally:
                self._stop()
        return MISCONFIGURED if self._hopeless() else 0

    # -- start -------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        leash.adopt_orphans()
        if self._server is None:
            try:
                take(self._lock)
            except OSError as error:
                raise StoreMissing(f"the data folder {self._lock.path.parent} cannot be used: {error}") from error
        else:
            self._start_server(self._server)
        self._revive()
        self._started()

    def _start_server(self, server: Server) -> None:
        self._tell_wait_at = time.monotonic() + 2
        known = len(server.repairs)
        server.start(waiting=self._while_the_server_starts)
        self._server_revival.started()
        for repair in server.repairs[known:]:
            self._say(repair)

    def _while_the_server_starts(self, what: str) -> None:
        self._listen(0)
        if self._asked:
            raise _AskedToStop
        if time.monotonic() > self._tell_wait_at:
            self._tell_wait_at = time.monotonic() + 5
            self._say(f"{what} ...")

    def _start(self, child: Child) -> None:
        try:
            child.start()
        except OSError as error:
            self._say(f"{child.name} cannot be started: {error}; trying again in {child.revival.ended():g} s")
            return
        if child.output is not None:
            self._selector.register(child.output, selectors.EVENT_READ, child)

    def _revive(self) -> None:
        now = time.monotonic()
        due = self._server_revival.due
        if self._server is not None and due is not None and due <= now:
            try:
                self._start_server(self._server)
            except BrokerError as error:
                self._say(f"{error}\ntrying again in {self._server_revival.ended():g} s")
        for child in self._children():
            if child.revival.due is not None and child.revival.due <= now:
                self._start(child)

    def _until_next_start(self) -> float | None:
        revivals = [child.revival for child in self._children()]
        if self._server is not None:
            revivals.append(self._server_revival)
        moments = [revival.due for revival in revivals if revival.due is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    # -- listen ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _hearing_signals(self) -> Iterator[None]:
        """Let a signal wake the selector; one that whoever started us ignores (nohup) stays ignored."""

        def ask(number: int, _: object) -> None:
            self._asked += number != signal.SIGCHLD

        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, ask) for number in (*heard, signal.SIGCHLD)}
        ear, mouth = socket.socketpair()
        with ear, mouth, self._selector:
            ear.setblocking(False)
            mouth.setblocking(False)
            wakeup = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
            self._selector.register(ear, selectors.EVENT_READ, ear)
            try:
                yield
            finally:
                signal.set_wakeup_fd(wakeup)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _listen(self, timeout: float | None) -> None:
        """Listen for at most `timeout` seconds, or until the server's disk wants something."""
        if self._disk is not None:
            until_disk = max(0.0, self._disk.at - time.monotonic())
            timeout = until_disk if timeout is None else min(timeout, until_disk)
        woken: socket.socket | None = None
        for key, _ in self._selector.select(timeout):
            if isinstance(key.data, Child):
                self._relay(key.data, key.fd)
            else:
                woken = key.data
        if woken is not None:  # last, because it closes what the children wrote to
            woken.recv(4096)
            self._notice_deaths()
        if self._disk is not None:
            self._disk.tend()

    def _relay(self, child: Child, descriptor: int) -> None:
        lines = child.lines()
        if child.output is None:
            self._selector.unregister(descriptor)
        for line in lines:
            self._say(f"{child.name} | {line}")

    def _notice_deaths(self) -> None:
        server = self._server
        if server is not None and self._server_revival.due is None and (how := server.collect()) and not self._stopping:
            self._say(f"the embedded Redis {how}; starting it again in {self._server_revival.ended():g} s")
        for child in self._children():
            descriptor = child.output
            if (ended := child.collect()) is None:
                continue
            if descriptor is not None:
                self._selector.unregister(descriptor)
            last, how = ended
            for line in last:
                self._say(f"{child.name} | {line}")
            if child.hopeless:
                self._say(f"{child.name} {how}: it cannot run with this configuration")
            elif not self._stopping:
                self._say(f"{child.name} {how}; starting it again in {child.revival.ended():g} s")
        leash.reap_orphans(self._ours())

    # -- stop --------------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._stopping = True
        if self._asked and self._running():
            self._say(f"stopping: what runs has {Duration(self._grace)} to finish; Ctrl-C again ends it at once")
        self._ask_to_end(self._hosts, self._grace / 2)
        self._ask_to_end([*self._hosts, *self._workers], self._grace + AT_ONCE)
        for patience in _COUNTING:
            for child in self._running():
                child.send(signal.SIGTERM)
            self._wait_for(self._children(), patience, unless=3)
        for child in self._running():
            child.send(signal.SIGKILL)
        self._wait_for(self._children(), AT_ONCE)
        leash.end_orphans(self._ours())
        if self._server is not None:
            self._server.stop()
        self._lock.release()

    def _ask_to_end(self, children: list[Child], patience: float) -> None:
        for child in children:
            if not child.told:
                child.told = True
                child.send(signal.SIGTERM)
        self._wait_for(children, patience, unless=2)

    def _wait_for(self, children: list[Child], patience: float, *, unless: int = sys.maxsize) -> None:
        """Return when the children have ended, after `patience` seconds, or when asked to stop `unless` times."""
        end = time.monotonic() + patience
        while any(child.pid for child in children) and self._asked < unless:
            if (left := end - time.monotonic()) <= 0:
                return
            self._listen(left)

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _children(self) -> list[Child]:
        return [*self._hosts, *self._workers]

    def _hopeless(self) -> bool:
        return any(child.hopeless for child in self._children())

    def _running(self) -> list[Child]:
        return [child for child in self._children() if child.pid]

    def _ours(self) -> set[int]:
        pids = {child.pid for child in self._children()} | {self._server.pid if self._server else None}
        return {pid for pid in pids if pid is not None}

    def _say(self, text: str) -> None:
        with suppress(OSError):  # the terminal is gone; what is left to do is not
            self._print(text)


class _AskedToStop(Exception):
    """The stop was asked for while the server was starting."""
