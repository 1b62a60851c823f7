"""The disk of the embedded server fills up, on a real file system that is small."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.errors import StoreUnavailable
from broker.ledger import Ledger, Order, Settlement, Want, audit
from broker.ledger.jobs import job_data
from broker.store import aof
from broker.store.embedded import Server
from tests.conftest import until

MB = 1 << 20


@pytest.fixture
def disk(tmp_path):
    """A file system of 64 MB."""
    if os.getuid():
        pytest.skip("only root may mount one")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk, *, leaving=0):
    """Write a file that leaves so many bytes."""
    usage = os.statvfs(disk)
    with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        for _ in range((usage.f_bavail * usage.f_frsize - leaving) // 4096):
            filler.write(b"x" * 4096)


def order(id, size=100):
    return Order(queue="f", id=id, data=job_data("f", b'"' + b"x" * size + b'"'))


def write_anew(server, client):
    """Have the server write its file anew; return when the room of the old one, which a thread gives back, is free."""
    client.bgrewriteaof()
    until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])

    def holds_the_old_one():
        for entry in Path(f"/proc/{server.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                path = str(entry.readlink())
                if aof.FOLDER in path and (".1." in path or "(deleted)" in path):
                    return True
        return False

    until(lambda: not holds_the_old_one())


def impatient(server):
    return redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))


@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_before_the_disk_is_full_nothing_is_taken_on_and_what_is_there_is_run(disk, fsync):
    with Server(disk / "data", fsync=fsync) as server, impatient(server) as client:
        assert server.watch_space() == ""
        ledger = Ledger(client)
        ledger.publish([[order("a")]])
        fill(disk, leaving=2 * MB)
        assert "nothing new is taken on" in server.watch_space()
        assert server.watch_space() == ""  # said once
        with pytest.raises(StoreUnavailable):
            ledger.publish([[order("b")]])
        (claimed,) = ledger.claim("w", [Want(function="f", queues=("f",), most=5)], 1).claimed
        assert ledger.settle("w", [Settlement(verdict="finished", queue="f", id="a", execution=claimed.execution)]) == [
            True
        ]
        (disk / "filler").unlink()
        assert "events are taken on" in server.watch_space()
        assert ledger.publish([[order("b")]]) == [[1]]


@pytest.mark.parametrize("fsync", ["everysec", "always"])
@pytest.mark.parametrize("rewritten", [False, True])
def test_all_that_was_answered_on_a_full_disk_outlives_a_kill_at_once(disk, fsync, rewritten):
    with Server(disk / "data", fsync=fsync) as server, impatient(server) as client:
        ledger = Ledger(client)
        ledger.publish([[order("before")]])
        if rewritten:
            write_anew(server, client)
        server.watch_space()
        fill(disk)
        for number in range(50):
            assert ledger.publish([[order(str(number), 10_000)]]) == [[1]]
        before = audit(client)
        os.kill(server.pid, signal.SIGKILL)
        until(server.collect)
        server.start()
        assert (server.repairs, audit(client)) == ([], before)


def test_what_was_answered_while_the_disk_filled_up_in_one_go_outlives_a_kill(disk):
    with Server(disk / "data") as server, impatient(server) as client:
        server.watch_space()
        fill(disk)
        ledger, accepted = Ledger(client), 0
        with suppress(StoreUnavailable):
            for number in range(1000):
                ledger.publish([[order(str(number), 10_000)]])
                accepted += 1
        assert 0 < accepted < 1000
        assert client.info("persistence")["aof_last_write_status"] == "err"
        server.watch_space()  # as the supervisor does every second
        until(lambda: client.info("persistence")["aof_last_write_status"] == "ok", what="it has written what it held")
        with pytest.raises(StoreUnavailable):
            ledger.publish([[order("x")]])
        os.kill(server.pid, signal.SIGKILL)
        until(server.collect)
        server.start()  # on a disk that is as good as full
        (account,) = audit(client)
        assert (account.accepted, account.queued) == (accepted, accepted)
        with pytest.raises(StoreUnavailable):
            ledger.publish([[order("x")]])
        (disk / "filler").unlink()
        assert "events are taken on" in server.watch_space()
        assert ledger.publish([[order("x")]]) == [[1]]


def test_a_server_that_ended_for_want_of_room_starts_again(disk):
    with Server(disk / "data", fsync="always") as server, impatient(server) as client:
        server.watch_space()
        fill(disk, leaving=MB // 4)
        ledger, accepted = Ledger(client), 0
        with suppress(StoreUnavailable):
            for number in range(1000):
                ledger.publish([[order(str(number), 10_000)]])
                accepted += 1
        assert 0 < accepted < 1000
        assert until(server.collect)  # it answers for nothing that it cannot write
        server.watch_space()
        server.start()
        (account,) = audit(client)
        assert account.accepted in {accepted, accepted + 1}  # the last one was written, or not; it was not answered
        assert account.missing == 0


def test_what_is_taken_on_after_a_full_disk_outlives_a_kill_also_after_the_file_was_rewritten(disk):
    with Server(disk / "data") as server, impatient(server) as client:
        server.watch_space()
        ledger = Ledger(client)
        ledger.publish([[order("before")]])
        write_anew(server, client)
        fill(disk)
        with suppress(StoreUnavailable):
            for number in range(1000):
                ledger.publish([[order(str(number), 10_000)]])
        server.watch_space()
        (disk / "filler").unlink()
        until(lambda: "events are taken on" in server.watch_space(), within=30, every=0.05)
        assert ledger.publish([[order("after")]]) == [[1]]
        before = audit(client)
        os.kill(server.pid, signal.SIGKILL)
        until(server.collect)
        server.start()
        assert (server.repairs, audit(client)) == ([], before)


def test_a_file_that_has_doubled_is_written_anew_and_the_new_one_has_room_at_once(disk, monkeypatch):
    monkeypatch.setattr("broker.store.rationing.REWRITE_FROM", MB)
    folder = disk / "data" / aof.FOLDER
    with Server(disk / "data") as server, impatient(server) as client:
        server.watch_space()
        first = aof.newest(folder)
        ledger = Ledger(client)
        ledger.publish([[order(str(number), 20_000)] for number in range(100)])
        server.watch_space()
        assert aof.newest(folder) != first
        state = (folder / aof.newest(folder)).stat()
        assert state.st_blocks * 512 - state.st_size >= MB
        until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
        second = aof.newest(folder)
        server.watch_space()
        assert aof.newest(folder) == second


def test_a_write_that_may_have_failed_between_two_looks_has_the_file_written_anew(disk):
    with Server(disk / "data") as server, impatient(server) as client:
        server.watch_space()
        folder = disk / "data" / aof.FOLDER
        write_anew(server, client)
        fill(disk)
        assert "nothing new is taken on" in server.watch_space()
        assert client.info("persistence")["aof_last_write_status"] == "ok"  # nothing was written when somebody looked
        before = aof.newest(folder)
        (disk / "filler").unlink()
        until(lambda: "events are taken on" in server.watch_space(), within=30, every=0.05)
        assert aof.newest(folder) != before
