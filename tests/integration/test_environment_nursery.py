"""The nursery: it lends nothing of the worker's, survives what the terminal sends, and leaves nothing behind."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker.errors import EnvironmentDied
from broker.runtime.messages import Ready
from broker.runtime.nursery import Nursery
from tests.conftest import until
from tests.integration.environment_driver import Driver, alive, driver, nursery

pytestmark = pytest.mark.timeout(30)

ECHO = "def handler(event, context):\n    return event\n"
SLEEP = "import time\ndef handler(event, context):\n    print('begun')\n    time.sleep(60)\n"
DAEMON = """
import os, subprocess, time
def handler(event, context):
    print(subprocess.Popen(["sleep", "60"], start_new_session=True).pid)
    time.sleep(60)
"""


def test_the_nursery_itself_knows_no_secret(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    nursery = Nursery(driver.root)
    try:
        # Empty until the new program has begun.
        variables = until(Path(f"/proc/{nursery.pid}/environ").read_bytes)
        assert b"secret" not in variables
        assert b"LC_ALL=C.UTF-8" in variables
    finally:
        nursery.close()


def test_closing_it_leaves_no_process_and_no_descriptor(driver: Driver) -> None:
    before = _descriptors()
    other = Driver(driver.root)
    for code in (SLEEP, DAEMON):
        environment = other.warm(code)
        other.send(environment, 1)
        other.run(lambda environment=environment: other.text(environment))
    other.nursery.close()
    assert other.processes() == []
    assert not alive(other.nursery.pid)
    assert _descriptors() == before


def test_signals_from_the_terminal_and_from_supervisors_do_not_reach_it(driver: Driver) -> None:
    environment = driver.warm(ECHO)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(driver.nursery.pid, number)
    assert driver.result(environment, 1) == 1
    assert driver.result(driver.warm(ECHO), 2) == 2
    assert os.getsid(driver.nursery.pid) != os.getsid(0)
    assert environment.pid
    assert os.getsid(environment.pid) == environment.pid


def test_when_it_dies_its_environments_die_and_the_next_start_makes_another(driver: Driver) -> None:
    idle = driver.warm(ECHO)
    busy = driver.warm(DAEMON)
    ids = driver.send(busy, 1, 2)
    driver.run(lambda: driver.text(busy))
    descriptor, first = driver.nursery.fileno(), driver.nursery.pid
    os.kill(first, signal.SIGKILL)
    for environment, current, unstarted in ((idle, None, ()), (busy, ids[0], (ids[1],))):
        died = driver.died(environment)
        assert isinstance(died.error, EnvironmentDied)
        assert (died.current, died.unstarted) == (current, unstarted)
    assert not driver.nursery.alive
    until(lambda: driver.processes() == [], what="the daemon that one had left is gone")
    assert driver.result(driver.warm(ECHO), 3) == 3
    assert driver.nursery.alive
    assert driver.nursery.fileno() == descriptor
    assert driver.nursery.pid != first


def test_one_that_is_stuck_is_replaced(driver: Driver) -> None:
    environment = driver.warm(ECHO)
    os.kill(driver.nursery.pid, signal.SIGSTOP)
    environments = [driver.start(ECHO)]
    while driver.nursery.alive and len(environments) < 400:
        environments.append(driver.start(ECHO))
    os.kill(driver.nursery.pid, signal.SIGCONT) if driver.nursery.alive else None
    driver.run(lambda: all(one.dead or one.ready for one in environments), within=20)
    assert driver.result(driver.warm(ECHO), 1) == 1
    del environment


def test_one_that_does_not_report_does_not_hold_up_a_death(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.runtime.environment.REPORT_WAIT", 0.3)
    environment = driver.warm(SLEEP)
    [id_] = driver.send(environment, 1)
    driver.run(lambda: driver.text(environment))
    os.kill(driver.nursery.pid, signal.SIGSTOP)
    environment.kill(EnvironmentDied("by the test"))
    died = driver.died(environment)
    assert died.current == id_
    os.kill(driver.nursery.pid, signal.SIGCONT)
    driver.run(lambda: not driver.processes())
    assert driver.result(driver.warm(ECHO), 1) == 1


def test_when_the_worker_is_killed_nothing_of_it_stays(tmp_path: Path) -> None:
    (tmp_path / "function.py").write_text(DAEMON)
    code = f"""
        import select, sys, time
        from pathlib import Path
        from broker.function import Function
        from broker.runtime.messages import Lines
        from broker.runtime.nursery import Nursery
        nursery = Nursery(Path({str(tmp_path)!r}))
        environment = nursery.start(Function(name="fn", handler="function.py:handler"))
        environment.send("0" * 32, 1, b"null")
        environment.flush()
        while True:
            select.select([nursery, environment.output], [], [], 0.1)
            nursery.read()
            for message in environment.read():
                if isinstance(message, Lines):
                    print(nursery.pid, environment.pid, message.lines[0].text, flush=True)
    """
    code = "\n".join(line[8:] for line in code.splitlines())
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with worker:
        assert worker.stdout
        pids = [int(pid) for pid in worker.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(alive, pids))
        worker.kill()
    until(lambda: not any(map(alive, pids)), within=5)


def test_a_handler_runs_in_a_fork_of_the_nursery_and_no_interpreter_is_started_for_it(driver: Driver) -> None:
    driver.write("function.py", ECHO)
    start = time.monotonic()
    environment = driver.warm("function.py:handler")
    took = time.monotonic() - start
    ready = driver.messages[environment][0]
    assert isinstance(ready, Ready)
    assert 0 < ready.init_ms < 1000 * took + 1
    assert _auxiliary(environment.pid) == _auxiliary(driver.nursery.pid)


def _auxiliary(pid: int | None) -> bytes:
    """Return what the kernel gives to a program when it is started, random addresses among it; a fork keeps it."""
    return Path(f"/proc/{pid}/auxv").read_bytes()


def test_its_environments_share_its_memory(driver: Driver) -> None:
    driver.write("function.py", ECHO)
    environments = [driver.warm("function.py:handler") for _ in range(4)]
    assert environments[0].pid
    lines = Path(f"/proc/{environments[0].pid}/smaps_rollup").read_text().splitlines()
    [pss] = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
    assert pss < 12_000  # kilobytes


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
