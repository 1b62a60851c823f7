"""How many processes an environment may have, that all of them end, and how much may lie in its /tmp."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import OutOfMemory, TmpFull, TooManyProcesses
from broker.quantity import Size
from broker.runtime.inside import cgroup
from broker.runtime.messages import Done
from broker.runtime.nursery import Nursery
from tests.conftest import until
from tests.integration.environment_driver import Driver, driver, nursery

pytestmark = pytest.mark.timeout(60)

DO = """
import os, signal, subprocess, sys, threading, time
TMP = os.environ["TMPDIR"]
def handler(event, context):
    exec(event)
    return event
"""

BOMB = """
def bomb(most, *, leave):
    # Each new process takes a token, so that there are never more than `most`, whatever becomes of the limit.
    r, w = os.pipe()
    os.set_blocking(r, False)
    os.write(w, bytes(most))
    while True:
        try:
            os.read(r, 1)
        except BlockingIOError:
            time.sleep(60)
        if os.fork() == 0 and leave:
            os.setsid()
"""

CAN = cgroup.claim()
if CAN:
    cgroup.release(CAN)


@pytest.fixture(params=["with control groups", "without"])
def either(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    if request.param == "without":
        monkeypatch.setattr(cgroup, "claim", lambda: None)
    elif CAN is None:
        pytest.skip("this user may make no control groups")
    driver = Driver(tmp_path, Nursery(tmp_path))
    yield driver
    driver.nursery.close()
    assert driver.processes() == []


@pytest.mark.parametrize("leave", [False, True])
def test_a_fork_bomb_ends_with_all_that_it_has_started(either: Driver, leave: bool) -> None:
    environment = either.warm(BOMB + DO, processes=100)
    [id_] = either.send(environment, f"bomb(600, leave={leave})")
    died = either.died(environment, within=40)
    assert isinstance(died.error, TooManyProcesses)
    assert str(died.error).endswith("processes and threads; the limit is 100")
    assert died.current == id_
    assert either.processes() == []
    assert either.result(either.warm(DO), "1") == "1"


def test_what_hides_from_the_end_of_its_environment_ends_with_the_last_one(either: Driver) -> None:
    environment = either.warm(DO)
    hide = "subprocess.run(['sh', '-c', 'env -i setsid sleep 60 </dev/null >/dev/null 2>&1 &']); os._exit(1)"
    either.send(environment, hide)
    either.died(environment)
    until(lambda: either.processes() == [], within=5)


def test_threads_count_as_processes(driver: Driver) -> None:
    environment = driver.warm(DO, processes=50)
    start = "for _ in range({}): threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\ntime.sleep(0.3)"
    assert driver.call(environment, start.format(20)).ok
    driver.send(environment, start.format(40))
    assert isinstance(driver.died(environment).error, TooManyProcesses)


def test_as_many_as_allowed_are_allowed(driver: Driver) -> None:
    environment = driver.warm(DO, processes=40)
    code = "many = [subprocess.Popen(['sleep', '0.5']) for _ in range(30)]\nfor one in many: one.wait()"
    assert driver.call(environment, code).ok


def test_more_in_its_tmp_than_allowed_ends_it(driver: Driver) -> None:
    environment = driver.warm(DO, tmp=Size(4 << 20))
    write = "os.makedirs(f'{TMP}/a/b', exist_ok=True); open(f'{TMP}/a/b/c', 'wb').write(bytes(%d))\ntime.sleep(0.5)"
    assert driver.call(environment, write % (3 << 20)).ok
    driver.send(environment, write % (5 << 20) + "\ntime.sleep(60)")
    died = driver.died(environment)
    assert isinstance(died.error, TmpFull)
    assert str(died.error) == "had 5MB in its /tmp; the limit is 4MB"


def test_many_small_files_in_its_tmp_count_too(driver: Driver) -> None:
    environment = driver.warm(DO, tmp=8 << 20)
    driver.send(environment, "for n in range(4000): open(f'{TMP}/{n}', 'w').write('x')\ntime.sleep(60)")
    assert isinstance(driver.died(environment, within=20).error, TmpFull)


def test_what_grows_after_the_answer_is_ended_too(driver: Driver) -> None:
    environment = driver.warm(DO, memory=64 << 20)
    grow = (
        "def grow():\n    time.sleep(0.3)\n    global x\n    x = b'x' * (100 << 20)\n    time.sleep(60)\n"
        "threading.Thread(target=grow, daemon=True).start()"
    )
    assert driver.call(environment, grow).ok
    died = driver.died(environment)
    assert isinstance(died.error, OutOfMemory)
    assert died.current is None


@pytest.mark.skipif(CAN is None, reason="this user may make no control groups")
def test_each_is_born_in_a_control_group_of_its_own_which_goes_with_it(driver: Driver) -> None:
    environments = [driver.warm(DO) for _ in range(3)]
    groups = [_group(one.pid) for one in environments]
    assert len({*groups, _group(driver.nursery.pid), _group(os.getpid())}) == 5
    assert driver.nursery._cgroup
    assert all(driver.nursery._cgroup.name in group for group in groups)
    child = 'print(open(f\'/proc/{subprocess.Popen(["sleep", "9"], start_new_session=True).pid}/cgroup\').read())'
    assert driver.call(environments[0], child).ok
    assert groups[0] in driver.text(environments[0])
    environments[0].stop()
    driver.died(environments[0])
    left = [path.name for path in driver.nursery._cgroup.iterdir() if path.is_dir()]
    assert Path(groups[0]).name not in left
    assert Path(groups[1]).name in left


def test_the_most_memory_that_was_used_is_measured_also_of_short_attempts_and_of_children(driver: Driver) -> None:
    environment = driver.warm(DO)
    done = driver.call(environment, "x = b'x' * (50 << 20); del x")
    assert isinstance(done, Done)
    assert 50 << 20 < done.max_rss < 80 << 20
    environment = driver.warm(DO)
    grow = "import time; x = b'x' * (60 << 20)"
    done = driver.call(environment, f"subprocess.run([sys.executable, '-c', {grow!r}])")
    assert isinstance(done, Done)
    assert 60 << 20 < done.max_rss < 100 << 20


def _group(pid: int | None) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line for line in lines if line.startswith("0::"))
