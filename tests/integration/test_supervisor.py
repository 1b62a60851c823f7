"""The supervisor: real processes, real signals, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from broker.store.embedded import Server
from broker.supervisor import Supervisor
from broker.supervisor.child import Child
from tests.conftest import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Sequence

SUPERVISE = """
import json, sys
from pathlib import Path
from broker.store.embedded import Server
from broker.errors import BrokerError
from broker.supervisor import Supervisor
from broker.supervisor.child import Child

data, embedded, hosts, workers, grace = json.loads(sys.argv[1])
supervisor = Supervisor(
    data=Path(data), server=Server(Path(data)) if embedded else None, hosts=hosts, workers=workers, grace=grace,
    started=lambda: print("started", file=sys.stderr, flush=True),
)
try:
    sys.exit(supervisor.run())
except BrokerError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""

# A child that says who it is, and on SIGTERM that it heard it and whether Redis is still there.
CHILD = """
import signal, socket, sys, time
name, data, linger = sys.argv[1], sys.argv[2], float(sys.argv[3])
told = 0
def hear(*_):
    global told
    told += 1
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(data + "/redis.sock")
            redis = "Redis is there"
        except OSError:
            redis = "Redis is gone"
    print(f"told {told}, {redis}", flush=True)
signal.signal(signal.SIGTERM, hear)
signal.signal(signal.SIGINT, lambda *_: print("got Ctrl-C", flush=True))
print("runs", flush=True)
while not told:
    time.sleep(0.01)
end = time.monotonic() + linger
while told < 2 and time.monotonic() < end:
    time.sleep(0.01)
print("ends", flush=True)
"""

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('runs', flush=True); time.sleep(1000)"

# Leaves a process behind that belongs to nobody, as a daemon does.
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("daemon", os.getpid(), flush=True)
        time.sleep(1000)
    os._exit(0)
os.wait()
time.sleep(1000)
"""


class Broker:
    """A supervisor in a process of its own, and what it says."""

    def __init__(
        self,
        data: Path,
        *,
        hosts: dict[str, Sequence[str]] | None = None,
        workers: dict[str, Sequence[str]] | None = None,
        grace: float = 5,
        embedded: bool = True,
    ) -> None:
        self.data = data
        what = json.dumps([str(data), embedded, hosts or {}, workers or {}, grace])
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, what], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        self.lines.extend(line.rstrip() for line in self.process.stderr)

    def says(self, pattern: str, *, times: int = 1, within: float = PATIENCE) -> list[str]:
        """Wait for lines in which the pattern is found; what its group matched, or the lines."""

        def found() -> list[str]:
            matches = [match for line in list(self.lines) if (match := re.search(pattern, line))]
            return [match[match.re.groups] for match in matches] if len(matches) >= times else []

        return until(found, within=within, what=f"{pattern!r} {times} times in {self.lines}")

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, name: str) -> psutil.Process:
        return until(lambda: [one for one in self.family() if name in command(one)])[0]

    @property
    def server(self) -> psutil.Process:
        return psutil.Process(int((self.data / "redis.pid").read_text()))

    def ends(self, within: float = PATIENCE) -> int:
        code = self.process.wait(within)
        self.reader.join(within)
        return code

    @property
    def redis(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.data / "redis.sock"))


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start(tmp_path):
    """Start brokers; at the end they are killed, and must have left nothing."""
    brokers: list[Broker] = []

    def start(**options: object) -> Broker:
        broker = Broker(tmp_path / "data", **options)
        brokers.append(broker)
        return broker

    yield start
    for broker in brokers:
        if broker.process.poll() is None:
            broker.process.kill()
            broker.process.wait()
        broker.reader.join(30)
        broker.process.stderr.close()
    here = str(tmp_path)
    until(
        lambda: not [one.pid for one in psutil.process_iter() if lives(one) and here in " ".join(command(one))],
        what="nothing that was started is left",
    )


@pytest.fixture
def child(tmp_path):
    """Return the command of a child that lingers so many seconds after the first SIGTERM."""
    return lambda name, linger=0: [sys.executable, "-c", CHILD, name, str(tmp_path / "data"), str(linger)]


def test_it_runs_everything_and_ctrl_c_ends_everything_with_exit_code_0(start, child):
    broker = start(hosts={"host": child("host")}, workers={"w1": child("w1"), "w2": child("w2")})
    broker.says(r"(host|w1|w2) \| runs", times=3)
    assert broker.redis.ping()
    family = broker.family()
    assert len(family) == 4
    broker.process.send_signal(signal.SIGINT)
    assert broker.ends() == 0
    assert [one for one in family if lives(one)] == []


def test_the_host_stops_before_the_workers_and_redis_after_all(start, child):
    broker = start(hosts={"host": child("host", 0.2)}, workers={"w1": child("w1", 0.2)})
    broker.says(r"\| runs", times=2)
    broker.process.send_signal(signal.SIGTERM)
    assert broker.ends() == 0
    told = [line for line in broker.lines if "runs" not in line and "|" in line]
    assert told == [
        "host | told 1, Redis is there",
        "host | ends",
        "w1 | told 1, Redis is there",
        "w1 | ends",
    ]


def test_ctrl_c_at_the_terminal_reaches_the_supervisor_alone(start, child):
    broker = start(hosts={"host": child("host")}, workers={"w1": child("w1")})
    broker.says(r"\| runs", times=2)
    os.killpg(broker.process.pid, signal.SIGINT)
    assert broker.ends() == 0
    assert [line for line in broker.lines if "Ctrl-C" in line and "|" in line] == []


def test_a_hang_up_of_the_terminal_stops_it_too(start, child):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # of tests that run under nohup it would inherit otherwise
    try:
        broker = start(workers={"w1": child("w1")})
    finally:
        signal.signal(signal.SIGHUP, before)
    broker.says(r"w1 \| runs")
    broker.process.send_signal(signal.SIGHUP)
    assert broker.ends() == 0


def test_a_child_that_dies_is_started_again_after_a_wait_that_grows(start, child):
    broker = start(hosts={"host": child("host")}, workers={"bad": [sys.executable, "-c", "print(1); exit(3)"]})
    waits = broker.says(r"bad ended with exit code 3; starting it again in (\S+) s", times=3)
    assert waits == ["0.2", "0.4", "0.8"]
    host = broker.child("host")
    host.kill()
    broker.says("host was killed by SIGKILL; starting it again in 0.2 s")
    broker.says(r"host \| runs", times=2)


def test_a_child_that_says_at_once_that_it_is_misconfigured_ends_all(start, child):
    wrong = [sys.executable, "-c", "print('config.toml: no such user'); exit(2)"]
    broker = start(hosts={"host": child("host")}, workers={"w1": wrong, "w2": child("w2")})
    assert broker.ends() == 2
    broker.says(r"w1 \| config.toml: no such user")
    broker.says(r"w1 ended with exit code 2: it cannot run with this configuration")
    assert not [line for line in broker.lines if "starting it again" in line]


def test_a_child_that_is_misconfigured_only_later_is_started_again_until_it_is_not(start, child, tmp_path):
    """Somebody edits the file while all runs."""
    lives = (
        "import os, sys; n = len(os.listdir(sys.argv[1])); open(f'{sys.argv[1]}/{n}', 'w'); exit([3, 2, 2, 3][n % 4])"
    )
    (tmp_path / "lives").mkdir()
    broker = start(
        hosts={"host": child("host")}, workers={"w1": [sys.executable, "-c", lives, str(tmp_path / "lives")]}
    )
    broker.says("w1 ended with exit code 2; starting it again", times=2)
    broker.says("w1 ended with exit code 3; starting it again", times=2)


def test_a_command_that_is_not_there_is_tried_again_and_harms_nobody(start, child):
    broker = start(hosts={"host": child("host")}, workers={"w1": ["/does/not/exist"]})
    broker.says(r"w1 cannot be started: .*No such file.* trying again in 0.4 s")
    broker.says(r"host \| runs")


def test_what_a_child_printed_last_is_shown_even_without_a_line_break(start):
    broker = start(
        workers={"w1": [sys.executable, "-c", "import sys, os; sys.stderr.write('oh \\udcffno'); os.abort()"]}
    )
    broker.says(r"w1 \| oh .*no")
    broker.says("w1 was killed by SIGABRT")


def test_kill_9_of_the_supervisor_ends_the_children_and_the_server(start, child):
    broker = start(hosts={"host": child("host")}, workers={"w1": child("w1")})
    broker.says(r"\| runs", times=2)
    family = broker.family()
    broker.process.kill()
    until(lambda: not [one for one in family if lives(one)], what="the family has died")


def test_after_kill_9_of_the_supervisor_the_next_one_starts_with_the_same_data(start, child):
    first = start(workers={"w1": child("w1", 1)})
    first.says(r"w1 \| runs")
    first.redis.set("key", "value")
    first.process.kill()
    second = start(workers={"w1": child("w1")})
    second.says("started")
    assert second.redis.get("key") == b"value"


def test_kill_9_of_redis_costs_a_restart_and_no_data(start, child):
    broker = start(workers={"w1": child("w1")})
    broker.says(r"w1 \| runs")
    broker.redis.set("key", "value")
    broker.server.kill()
    broker.says("the embedded Redis was killed by SIGKILL; starting it again in 0.2 s")
    assert until(lambda: answer(broker, "key")) == b"value"
    broker.process.send_signal(signal.SIGTERM)
    assert broker.ends() == 0
    assert "w1 | told 1, Redis is there" in broker.lines


def answer(broker: Broker, key: str) -> bytes | None:
    try:
        return broker.redis.get(key)
    except redis.ConnectionError:
        return None


def test_redis_that_cannot_be_started_again_is_tried_until_it_can(start):
    broker = start()
    broker.says("started")
    folder, away = broker.data / "appendonlydir", broker.data / "away"
    folder.rename(away)
    folder.write_text("in the way")
    broker.server.kill()
    broker.says("trying again in 0.4 s")
    folder.unlink()
    away.rename(folder)
    until(lambda: (broker.data / "redis.sock").exists() and answer(broker, "x") is None and broker.redis.ping())
    broker.process.send_signal(signal.SIGTERM)
    assert broker.ends() == 0


@pytest.mark.parametrize("embedded", [True, False])
def test_a_second_copy_is_refused_and_told_which_process_is_the_first(start, child, embedded):
    first = start(workers={"w1": child("w1")}, embedded=embedded)
    first.says(r"w1 \| runs")
    second = start(workers={"w1": child("w1")}, embedded=embedded)
    assert second.ends() == 1
    assert f"StoreError: another broker already runs in {first.data} (process {first.process.pid})" in second.lines[0]
    assert first.process.poll() is None


def test_a_worker_gets_the_grace_to_finish_and_a_second_ctrl_c_ends_the_wait(start, child):
    broker = start(workers={"w1": child("w1", 1000)}, grace=1000)
    broker.says(r"w1 \| runs")
    broker.process.send_signal(signal.SIGINT)
    broker.says("w1 . told 1")
    broker.says("stopping: what runs has 16m40s to finish")
    broker.process.send_signal(signal.SIGINT)
    broker.says("w1 . told 2, Redis is there")
    assert broker.ends() == 0


def test_a_second_ctrl_c_while_the_host_is_stopping_reaches_the_workers_as_well(start, child):
    broker = start(hosts={"host": child("host", 1000)}, workers={"w1": child("w1", 1000)}, grace=1000)
    broker.says(r"\| runs", times=2)
    broker.process.send_signal(signal.SIGINT)
    broker.says("host . told 1")
    broker.process.send_signal(signal.SIGINT)
    assert broker.ends() == 0
    assert {"host | told 2, Redis is there", "w1 | told 2, Redis is there"} <= set(broker.lines)


def test_a_child_that_is_deaf_to_signals_is_killed(start):
    broker = start(workers={"w1": [sys.executable, "-c", DEAF]}, grace=0)
    broker.says(r"w1 \| runs")
    worker = broker.child("-c")
    for _ in range(3):
        broker.process.send_signal(signal.SIGINT)
        time.sleep(0.05)  # three signals at once would be one
    assert broker.ends() == 0, "\n".join(broker.lines)
    assert not lives(worker)


def test_a_daemon_that_a_child_has_left_behind_does_not_stay(start):
    broker = start(workers={"w1": [sys.executable, "-c", DAEMON]})
    daemon = psutil.Process(int(broker.says(r"daemon (\d+)")[0]))
    assert lives(daemon)
    broker.process.send_signal(signal.SIGINT)
    assert broker.ends() == 0
    assert not lives(daemon)


def test_orphans_that_end_are_no_zombies(start):
    broker = start(workers={"w1": [sys.executable, "-c", DAEMON]})
    daemon = psutil.Process(int(broker.says(r"daemon (\d+)")[0]))
    until(lambda: daemon.ppid() == broker.process.pid, what="the supervisor adopts the daemon")
    daemon.kill()
    until(lambda: not daemon.is_running(), what="the supervisor collects it")


def test_it_goes_on_when_nobody_reads_what_it_says(tmp_path):
    data = tmp_path / "data"
    ear, mouth = os.pipe()
    what = json.dumps([str(data), True, {}, {}, 1])
    with subprocess.Popen([sys.executable, "-c", SUPERVISE, what], stderr=mouth) as process:
        os.close(mouth)
        with os.fdopen(ear) as lines:
            assert lines.readline() == "started\n"
        server = psutil.Process(int((data / "redis.pid").read_text()))
        server.kill()  # which it says to nobody
        until(lambda: int((data / "redis.pid").read_text() or server.pid) != server.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_signal_that_whoever_started_it_ignores_stays_ignored(tmp_path, start, child):
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        broker = start(workers={"w1": child("w1")})
    finally:
        signal.signal(signal.SIGHUP, previous)
    broker.says(r"w1 \| runs")
    broker.process.send_signal(signal.SIGHUP)
    broker.child("w1").kill()
    broker.says(r"w1 \| runs", times=2)
    assert broker.process.poll() is None


@pytest.mark.parametrize("embedded", [False, True])
def test_when_all_runs_there_is_nothing_to_wake_for(tmp_path, embedded):
    server = Server(tmp_path / "data") if embedded else None
    supervisor = Supervisor(data=tmp_path, server=server, hosts={"host": ["sleep", "600"]}, workers={}, grace=1)
    try:
        supervisor._revive()
        assert supervisor._until_next_start() is None
    finally:
        (child,) = supervisor._hosts
        child.send(signal.SIGKILL)
        until(child.collect)
        if server is not None:
            server.stop()


def test_what_a_child_said_last_is_no_line_more_when_it_is_read_with_the_end():
    child = Child("host", ["echo", "said"])
    child.start()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.lines() == ["said"]
    until(child.collect)
