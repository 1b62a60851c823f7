"""Embedded: the private Valkey of one data folder; started, waited for, and stopped.

It listens on a Unix socket alone, keeps everything in an append-only file, and dies with the process that started it.
Two locked files in the data folder say who lives: `lock` belongs to the broker (`broker up`), `redis.pid` to the
server itself, which inherits it and so holds it exactly as long as it lives.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from broker import address
from broker.errors import StoreMissing, StoreUnavailable
from broker.leash import leashed, outcome
from broker.store import aof
from broker.store.binary import find_binary
from broker.store.flush import Flusher
from broker.store.inline import ask
from broker.store.lockfile import LockFile, take
from broker.store.rationing import Rationing

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = "redis.log"

SILENCE = 60.0
"""Seconds without progress after which a starting or closing server is given up."""

_LARGEST_LOG = 8 << 20

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""The server needs nothing else from the environment, and secrets may be there."""


def _wait_silently(_: str) -> None:
    """Tell nobody."""


class Server:
    """The embedded server of one data folder.

    `fsync`: `everysec` survives the death of every process here, and with `flush` called every second a power failure
    but for the last one; `always` loses nothing then either. The server dies with the thread that called `start`, so
    let that be the main thread.
    """

    def __init__(self, data: Path, *, fsync: Literal["everysec", "always"] = "everysec") -> None:
        self.data = data.absolute()
        self.fsync = fsync
        self.socket = address.find(self.data)
        self.version = ""
        """`Valkey 9.1.2`, once it has started."""
        self.repairs: list[str] = []
        """What had to be cut off the append-only file, one sentence each."""
        self._waiting: Callable[[str], None] = _wait_silently
        self._broker = LockFile(self.data / "lock")
        self._alive = LockFile(self.data / "redis.pid")
        self._flusher = Flusher(self.data / aof.FOLDER)
        self._rationing = Rationing(self.data)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def url(self) -> str:
        """What any Redis client takes to connect here."""
        return address.url(self.socket)

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs, and until `collect` has told of its end."""
        return self._process.pid if self._process else None

    def collect(self) -> str | None:
        """Return how the server ended (`was killed by SIGKILL`), once, if it has."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        self._process = None
        return outcome(code)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *, waiting: Callable[[str], None] = _wait_silently) -> None:
        """Start the server, or start it again after a crash; return when it answers and has loaded its file.

        `waiting` is called with what is being waited for, every 50 ms or more often; what it raises ends the start.

        Raises StoreError when another broker uses the data folder, StoreMissing when the server cannot run (no
        program, no permission, no space, damaged file; with the server's own last words), StoreUnavailable when it
        does not come up in time.
        """
        self._waiting = waiting
        binary = find_binary()
        first = self._broker.descriptor is None
        try:
            take(self._broker)
            self._close_orphan()
            self._prepare()
            try:
                self._launch(binary)
            except _DamagedFile as damage:
                self.repairs.append(aof.mend(self.data, damage.name, binary))
                self._launch(binary)
        except BaseException as error:
            self._end()
            if first:
                self._broker.release()
            if isinstance(error, OSError):
                raise StoreMissing(f"the embedded Redis cannot use the folder {self.data}: {error}") from error
            raise

    def flush(self) -> None:
        """Bring to the disk what the server has written; with `always` it has done so. Raises OSError."""
        if self.fsync != "always":
            self._flusher.flush()

    def watch_space(self) -> str:
        """See to it that the disk has room for what the server has answered; return what people should know, if any.

        Call it every second (space.EVERY), also while the server does not run. Raises OSError.
        """
        return self._rationing.watch(self.socket if self._process else None)

    def stop(self) -> None:
        """Stop the server after it has written everything to its file; do nothing if it does not run."""
        self._end()
        self._broker.release()

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()  # with no snapshots configured: finish the append-only file, sync it, exit
            try:
                self._process.wait(SILENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
            with suppress(OSError):
                (self.data / address.NAME).unlink(missing_ok=True)
        self._alive.release()

    def _close_orphan(self) -> None:
        """End a server whose broker was killed; kept, it would have old options and would not die with us."""
        asked = 0.0
        deadline = time.monotonic() + SILENCE
        while not self._alive.acquire():
            now = time.monotonic()
            orphan = self._alive.owner()
            if orphan is not None and now - asked > 1:
                asked = now
                with suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGTERM if now < deadline else signal.SIGKILL)
            if now > deadline + 5:
                raise StoreUnavailable(f"a Redis left behind in {self.data} does not end (process {orphan})")
            self._waiting("a Redis left behind by a killed broker is closing its file")
            time.sleep(0.01)

    def _prepare(self) -> None:
        log = self.data / LOG
        self._log_start = log.stat().st_size if log.exists() else 0
        if self._log_start > _LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
            self._log_start = 0
        link = self.data / address.NAME
        link.unlink(missing_ok=True)
        self.socket = address.choose(self.data)
        if self.socket != link:
            self.socket.unlink(missing_ok=True)
            link.symlink_to(self.socket)  # for clients: see `address.find`

    def _launch(self, binary: Path) -> None:
        lock = self._alive.descriptor
        if lock is None:
            raise AssertionError("the lock is taken before the server is launched")
        self._process = subprocess.Popen(
            [str(binary), *self._options()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            umask=0o077,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C is for the broker, which stops the server last
            preexec_fn=leashed(self._alive.sign),  # noqa: PLW1509 -- the supervisor has one thread
        )
        self._wait_until_ready(self._process)

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "logfile": str(self.data / LOG),
            "appendonly": "yes",
            "appendfsync": "always" if self.fsync == "always" else "no",  # why not everysec: see flush.py
            "aof-load-truncated": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            **self._rationing.begin(),
            # The old names of hash-max-listpack-*: every version knows them. An invocation's hash stays compact.
            "hash-max-ziplist-value": "4096",
            "hash-max-ziplist-entries": "128",
            "hz": "2",  # how often a second it looks around; the default, 10, is most of what an idle broker costs
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        seen, since, pause = "", time.monotonic(), 0.002
        while True:
            if process.poll() is not None:
                self._process = None
                raise self._failure(process.returncode)
            progress = self._progress()
            if progress is None:
                return
            now = time.monotonic()
            if progress != seen:
                seen, since = progress, now
            if now - since > SILENCE:
                raise StoreUnavailable(f"the embedded Redis made no progress for {SILENCE:.0f} s: {progress}")
            self._waiting(progress)
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def _progress(self) -> str | None:
        """Return None when the server is ready, else how far it has come."""
        try:
            info = ask(self.socket, "INFO")
        except OSError:
            return "Redis is starting"
        if info.get("loading", "0") != "0":
            done, total = int(info.get("loading_loaded_bytes", 0)), int(info.get("loading_total_bytes", 0))
            return f"Redis is loading its file: {done >> 20} of {total >> 20} MB"
        if valkey := info.get("valkey_version"):
            self.version = f"Valkey {valkey}"
        else:
            self.version = f"Redis {info.get('redis_version', '')}"
        return None

    def _failure(self, code: int) -> Exception:
        try:
            with (self.data / LOG).open("rb") as log:
                log.seek(self._log_start)
                text = log.read().decode(errors="replace")
                self._log_start = log.tell()
        except OSError as error:
            text = str(error)
        if name := aof.damaged(text):
            return _DamagedFile(name)
        words = "\n".join(f"  {line}" for line in text.strip().splitlines()[-4:])
        return StoreMissing(f"the embedded Redis {outcome(code)}; {self.data / LOG} says:\n{words}")


class _DamagedFile(Exception):
    """The server refuses its append-only file."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
