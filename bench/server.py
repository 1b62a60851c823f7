"""Server: the one that all contenders use, on a TCP port of the loopback, without persistence."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.store.binary import find_binary


def free_port() -> int:
    """Return a port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class TcpServer:
    """A server of its own for one run, of the program that broker brings along."""

    def __init__(self, *options: str) -> None:
        """Start it; return when it answers."""
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="bench-server-"))
        listening = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        self._process = subprocess.Popen(
            [str(find_binary()), *listening, "--save", "", "--appendonly", "no", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.client = redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0))
        end = time.monotonic() + 10
        while not self._answers():
            if time.monotonic() > end or self._process.poll() is not None:
                self.close()
                raise RuntimeError("the server did not start")
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """What a client takes to connect."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def microseconds(self, command: str = "evalsha") -> float:
        """Return the time that the server has spent in a command so far."""
        statistics: Any = self.client.info("commandstats")
        return float(statistics.get(f"cmdstat_{command}", {}).get("usec", 0))

    def close(self) -> None:
        """End it and remove its folder."""
        self.client.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False


def version() -> str:
    """Return what the program calls itself."""
    told = subprocess.run([str(find_binary()), "--version"], capture_output=True, text=True, check=True)
    return " ".join(told.stdout.split()[:3])
