"""Flushing: what the embedded server writes is brought to the disk in its stead, so that it holds nothing back."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from broker.store.embedded import Server
from broker.store.flush import Flusher
from tests.conftest import until

SUPERVISE = """
import sys
from pathlib import Path
from broker.store.embedded import Server
from broker.supervisor import Supervisor

class Told(Server):
    tries = 0
    def flush(self):
        super().flush()
        self.tries += 1
        if self.tries == 3:
            raise OSError(5, "the disk is gone")
        print(f"flushed {self.tries}", file=sys.stderr, flush=True)

data = Path(sys.argv[1])
sys.exit(Supervisor(data=data, server=Told(data), hosts={}, workers={}, grace=1).run())
"""


class Disk:
    """Takes the place of fdatasync(2); remembers which files it was to bring to the disk."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.broken = False

    def __call__(self, descriptor: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)


@pytest.fixture
def disk():
    return Disk()


def test_only_what_is_new_or_has_grown_is_flushed(tmp_path, disk):
    flusher = Flusher(tmp_path, sync=disk)
    (tmp_path / "base").write_text("1")
    (tmp_path / "incr").write_text("1")
    flusher.flush()
    assert disk.synced == ["base", "incr"]
    flusher.flush()
    assert disk.synced == ["base", "incr"]
    with (tmp_path / "incr").open("a") as file:
        file.write("2")
    flusher.flush()
    assert disk.synced == ["base", "incr", "incr"]
    (tmp_path / "new").write_text("2")
    (tmp_path / "new").replace(tmp_path / "base")  # of the same size, and yet another file
    flusher.flush()
    assert disk.synced == ["base", "incr", "incr", "base"]


def test_a_flush_that_the_disk_refuses_is_an_error_and_is_tried_again(tmp_path, disk):
    flusher = Flusher(tmp_path, sync=disk)
    (tmp_path / "incr").write_text("1")
    disk.broken = True
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            flusher.flush()
    disk.broken = False
    flusher.flush()
    assert disk.synced == ["incr"]


def test_a_folder_that_is_not_there_yet_needs_no_flush(tmp_path, disk):
    Flusher(tmp_path / "later", sync=disk).flush()
    assert disk.synced == []


@pytest.mark.parametrize(("fsync", "setting"), [("everysec", "no"), ("always", "always")])
def test_the_server_never_keeps_to_itself_what_it_has_acknowledged(tmp_path, fsync, setting):
    # With `everysec` of its own it does, while a sync is under way.
    with Server(tmp_path / "data", fsync=fsync) as server, redis.Redis.from_url(server.url) as client:
        assert client.config_get("appendfsync") == {"appendfsync": setting}
        client.set("key", "value")
        server.flush()


def test_the_supervisor_flushes_every_second_and_says_when_the_disk_refuses(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(tmp_path / "data")], stderr=subprocess.PIPE, text=True
    ) as process:
        lines = [process.stderr.readline().strip() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        until(lambda: process.poll() is not None, what="it ends")
    assert lines == [
        "flushed 1",
        "flushed 2",
        "the disk does not keep what Redis has written: [Errno 5] the disk is gone",
    ]
