"""How environments end: too slow, too big, crashed, stopped; and that nothing of them is left."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import os
import select
import signal
import socket
import time

import pytest

from broker.errors import EnvironmentDied, InitFailed, OutOfMemory, Stopped, TimedOut
from broker.runtime.messages import Done, Ready
from tests.conftest import until
from tests.integration.environment_driver import Driver, alive, driver, nursery

pytestmark = pytest.mark.timeout(30)

DO = """
import ctypes, os, signal, subprocess, sys, threading, time
def handler(event, context):
    if isinstance(event, str):
        exec(event)
    return event
"""

DAEMON = """
def daemon():
    r, w = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(w, str(os.getpid()).encode())
            while True: time.sleep(1)
        os._exit(0)
    return int(os.read(r, 100))
"""


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("os._exit(3)", "exited with status 3"),
        ("sys.exit(4)", "exited with status 4"),
        ("sys.exit()", "exited with status 0"),
        ("sys.exit('bye')", "exited with status 1"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "was killed by SIGTERM"),
        ("os.abort()", "was killed by SIGABRT"),
        ("ctypes.string_at(0)", "was killed by SIGSEGV"),
        ("os.closerange(3, 1000)", "exited with status 1"),
        ("os.closerange(3, 1000); time.sleep(60)", "closed its connection to the broker"),
        ("os.execvp('sleep', ['sleep', '60'])", "closed its connection to the broker"),
    ],
)
def test_a_crash_takes_the_running_attempt_and_no_other(driver: Driver, code: str, why: str) -> None:
    environment = driver.warm(DO)
    before, crashing, *after = driver.send(environment, 1, code, 2, 3)
    died = driver.died(environment)
    assert isinstance(died.error, EnvironmentDied)
    assert str(died.error) == why
    assert (died.current, died.unstarted, died.init) == (crashing, tuple(after), False)
    assert died.max_rss > 1 << 20
    done = [message for message in driver.messages[environment] if isinstance(message, Done)]
    assert [message.invocation for message in done] == [before]
    assert environment.dead
    assert environment.deadline is None
    assert environment.read() == []
    assert environment.tick(time.monotonic()) == []


def test_a_crash_while_idle_concerns_no_attempt(driver: Driver) -> None:
    environment = driver.warm(DO)
    assert environment.pid
    os.kill(environment.pid, signal.SIGKILL)
    died = driver.died(environment)
    assert (str(died.error), died.current, died.unstarted) == ("was killed by SIGKILL", None, ())


def test_what_was_sent_to_a_dead_one_never_began(driver: Driver) -> None:
    environment = driver.warm(DO)
    [answered] = driver.send(environment, "print('said')")
    until(lambda: b"true" in _peek(environment.control), what="the answer is in the socket")
    assert environment.pid
    os.kill(environment.pid, signal.SIGKILL)
    until(lambda: not alive(environment.pid or 0))
    ids = driver.send(environment, 1, 2)
    died = driver.died(environment)
    done = [message for message in driver.messages[environment] if isinstance(message, Done)]
    assert [message.invocation for message in done] == [answered]
    assert (died.current, died.unstarted) == (None, tuple(ids))


def test_what_was_sent_and_never_read_never_began(driver: Driver) -> None:
    environment = driver.warm(DO)
    assert environment.pid
    os.kill(environment.pid, signal.SIGSTOP)
    [id_] = driver.send(environment, 1)
    os.kill(environment.pid, signal.SIGKILL)
    died = driver.died(environment)
    assert (died.current, died.unstarted) == (None, (id_,))


def test_what_was_not_flushed_or_not_sent_to_its_end_never_began(driver: Driver) -> None:
    environment = driver.warm(DO)
    [running] = driver.send(environment, "time.sleep(60)")
    driver.send(environment, "x" * 1_000_000, 1)
    environment.send("f" * 32, 1, b"1")
    environment.kill(Stopped())
    died = driver.died(environment)
    assert died.current == running
    assert len(died.unstarted) == 3

    environment = driver.warm(DO)
    driver.send(environment, "x" * 30_000_000, 1)
    environment.kill(Stopped())
    died = driver.died(environment)
    assert died.current is None
    assert len(died.unstarted) == 2


def test_what_was_printed_before_a_crash_is_kept(driver: Driver) -> None:
    environment = driver.warm(DO)
    [id_] = driver.send(environment, "print('last words'); print('unfinished', end=''); ctypes.string_at(0)")
    driver.died(environment)
    lines = driver.lines(environment)
    assert lines[0][1].text == "last words"
    assert {owner for owner, _ in lines} == {id_}
    assert any("Segmentation fault" in line.text for _, line in lines)  # where it was, in Python's words


@pytest.mark.parametrize(
    "code", ["while True: pass", "time.sleep(60)", "signal.pthread_sigmask(0, range(1, 65)); time.sleep(60)"]
)
def test_an_attempt_that_takes_too_long_is_ended(driver: Driver, code: str) -> None:
    environment = driver.warm(DO, timeout=0.3)
    first, slow, *after = driver.send(environment, 1, code, 2)
    start = time.monotonic()
    died = driver.died(environment)
    assert time.monotonic() - start > 0.25
    assert isinstance(died.error, TimedOut)
    assert str(died.error) == "timed out after 300ms"
    assert (died.current, died.unstarted) == (slow, tuple(after))
    assert first not in (died.current, *died.unstarted)


def test_each_attempt_has_the_whole_time(driver: Driver) -> None:
    environment = driver.warm(DO, timeout=1.5)
    start = time.monotonic()
    driver.send(environment, *["time.sleep(0.4)"] * 4)
    driver.run(lambda: not environment.pending)
    assert not environment.dead
    assert time.monotonic() - start > 1.5


def test_an_answer_that_is_there_counts_however_late_the_worker_looks(driver: Driver) -> None:
    environment = driver.warm(DO, timeout=60)
    driver.send(environment, "print('done')")
    assert select.select([environment.control], [], [], 10)[0], "its answer is there"
    driver.overdue(environment)
    assert isinstance(driver.messages[environment][-1], Done)
    assert not environment.dead


def test_memory_over_the_limit_ends_it(driver: Driver) -> None:
    environment = driver.warm(DO, memory=64 << 20)
    grow = "x = []\nwhile True: x.append(b'x' * (1 << 20)); time.sleep(0.001)"
    ids = driver.send(environment, grow, 1)
    died = driver.died(environment)
    assert isinstance(died.error, OutOfMemory)
    assert "the limit is 64MB" in str(died.error)
    assert (died.current, died.unstarted) == (ids[0], (ids[1],))
    assert died.max_rss > 64 << 20


def test_memory_of_child_processes_counts(driver: Driver) -> None:
    environment = driver.warm(DO, memory=100 << 20)
    code = "import time; x = b'x' * (70 << 20); time.sleep(20)"
    driver.send(environment, f'for _ in range(2): p = subprocess.Popen([sys.executable, "-c", "{code}"])\np.wait()')
    assert isinstance(driver.died(environment).error, OutOfMemory)


def test_memory_that_forked_processes_share_counts_once(driver: Driver) -> None:
    environment = driver.warm(DO, memory=200 << 20)
    fork = "    if os.fork() == 0: time.sleep(0.4); os._exit(0)"
    done = driver.call(environment, f"x = b'x' * (100 << 20)\nfor _ in range(4):\n{fork}\ntime.sleep(0.5)")
    assert isinstance(done, Done)
    assert done.ok


def test_an_allocation_far_over_the_limit_fails_at_once(driver: Driver) -> None:
    environment = driver.warm(DO, memory=64 << 20)
    first, *after = driver.send(environment, "x = bytearray(10 << 30)", 1, 2)
    died = driver.died(environment)
    done = [message for message in driver.messages[environment] if isinstance(message, Done)]
    assert [(one.invocation, one.ok) for one in done] == [(first, False)]
    assert b'"errorType": "OutOfMemory"' in done[0].body
    assert isinstance(died.error, OutOfMemory)
    assert (died.current, died.unstarted) == (None, tuple(after))


def test_threads_do_not_count_as_memory_for_their_stacks(driver: Driver) -> None:
    environment = driver.warm(DO, memory=64 << 20)
    code = "ts = [threading.Thread(target=time.sleep, args=(0.2,)) for _ in range(40)]\nfor t in ts: t.start()"
    assert driver.call(environment, code).ok


def test_importing_has_a_time_limit_of_its_own(driver: Driver) -> None:
    environment = driver.start("import time\ntime.sleep(60)\n", init_timeout=0.3, timeout=60)
    ids = driver.send(environment, 1, 2)
    died = driver.died(environment)
    assert isinstance(died.error, TimedOut)
    assert str(died.error) == "was not ready after 300ms"
    assert (died.init, died.current, died.unstarted) == (True, None, tuple(ids))


def test_importing_has_the_same_memory_limit(driver: Driver) -> None:
    for code in ("x = bytearray(10 << 30)\n", "x = b'x' * (200 << 20)\nimport time\ntime.sleep(9)\n"):
        died = driver.died(driver.start(code, memory=64 << 20))
        assert isinstance(died.error, OutOfMemory)
        assert died.init


def test_a_crash_while_importing_says_so(driver: Driver) -> None:
    died = driver.died(driver.start("import os\nos._exit(7)\n"))
    assert (str(died.error), died.init) == ("exited with status 7", True)
    died = driver.died(driver.start("import sys\nsys.exit(7)\n"))
    assert isinstance(died.error, InitFailed)


@pytest.mark.parametrize(
    ("many", "code"),
    [
        (2, "p = subprocess.Popen(['sleep', '60']); p.wait()"),
        (4, "p = subprocess.Popen(['sh', '-c', 'sleep 60 & sleep 60'], start_new_session=True); p.wait()"),
        (2, "p = subprocess.Popen(['env', '-i', 'setsid', 'sleep', '60']); p.wait()"),
        (2, "print(daemon()); time.sleep(60)"),
        (2, "subprocess.run(['sh', '-c', 'setsid sleep 60 &']); time.sleep(60)"),
        (8, "for _ in range(3): os.fork()\ntime.sleep(60)"),
        (2, "os.setpgid(os.fork() or 0, 0); time.sleep(60)"),
    ],
)
def test_a_timeout_ends_the_whole_tree(driver: Driver, many: int, code: str) -> None:
    environment = driver.warm(DAEMON + DO, timeout=60)
    driver.send(environment, code)
    driver.run(lambda: len(driver.processes()) >= many)
    driver.overdue(environment)
    assert isinstance(driver.died(environment).error, TimedOut)
    assert driver.processes() == []


def test_a_crash_ends_the_daemons_it_leaves(driver: Driver) -> None:
    environment = driver.warm(DAEMON + DO)
    driver.send(environment, "print(daemon())", "os._exit(1)")
    driver.died(environment)
    assert not alive(int(driver.text(environment)[0]))


def test_what_processes_start_while_they_are_killed_is_killed_too(driver: Driver) -> None:
    environment = driver.warm(DO, timeout=0.3)
    bomb = (
        "import os, sys\nfor _ in range(4):\n    os.fork()\n    os.setsid() if os.getpid() != os.getsid(0) else None\n"
    )
    loop = (
        f"{bomb}import subprocess, time\nwhile True: subprocess.Popen(['sleep', '0.05'], start_new_session=True).wait()"
    )
    driver.send(environment, f"p = subprocess.Popen([sys.executable, '-c', {loop!r}]); p.wait()")
    driver.died(environment)
    assert driver.processes() == []


def test_processes_in_the_background_live_as_long_as_the_environment(driver: Driver) -> None:
    environment = driver.warm(DO)
    assert driver.call(environment, "print(subprocess.Popen(['sleep', '60']).pid, flush=True)").ok
    pid = int(driver.text(environment)[0])
    assert driver.call(environment, 1).ok
    assert alive(pid)
    environment.stop()
    assert str(driver.died(environment).error) == "was stopped"
    assert not alive(pid)


def test_stopped_it_answers_what_it_has_and_leaves_in_order(driver: Driver) -> None:
    environment = driver.warm("import atexit, time\natexit.register(print, 'goodbye')\n" + DO)
    driver.send(environment, "time.sleep(0.2)", 2)
    environment.stop()
    died = driver.died(environment)
    assert (str(died.error), died.current, died.unstarted) == ("was stopped", None, ())
    assert sum(isinstance(message, Done) for message in driver.messages[environment]) == 2
    assert driver.text(environment) == ["goodbye"]


def test_stopped_before_it_is_ready_it_leaves_too(driver: Driver) -> None:
    environment = driver.start(DO)
    environment.stop()
    assert str(driver.died(environment).error) == "was stopped"


def test_one_that_does_not_leave_is_killed(driver: Driver) -> None:
    environment = driver.warm("import atexit, time\natexit.register(time.sleep, 60)\n" + DO)
    environment.stop()
    assert str(driver.died(environment).error) == "was stopped"


def test_killed_it_says_what_for(driver: Driver) -> None:
    for wait in (True, False):
        environment = driver.warm(DO) if wait else driver.start("import time\ntime.sleep(60)\n")
        ids = driver.send(environment, "time.sleep(60)", 1)
        environment.kill(Stopped("by hand"))
        environment.kill(Stopped("a second time"))
        died = driver.died(environment)
        assert isinstance(died.error, Stopped)
        assert str(died.error) == "by hand"
        if wait:
            assert (died.current, died.unstarted) == (ids[0], (ids[1],))
        else:
            assert (died.current, died.unstarted) == (None, tuple(ids))


def test_it_leaves_no_core_file(driver: Driver) -> None:
    environment = driver.warm("import resource\ndef handler(e, c): return resource.getrlimit(resource.RLIMIT_CORE)\n")
    assert driver.result(environment) == [0, 0]


def test_the_loss_of_one_does_not_touch_another(driver: Driver) -> None:
    driver.write("function.py", DO)
    one, other = driver.warm("function.py:handler"), driver.warm("function.py:handler")
    driver.send(one, "os._exit(1)")
    driver.died(one)
    assert driver.result(other, 5) == 5
    assert any(isinstance(message, Ready) for message in driver.messages[other])


def _peek(descriptor: int) -> bytes:
    with socket.socket(fileno=os.dup(descriptor)) as control:
        try:
            return control.recv(1000, socket.MSG_PEEK)
        except BlockingIOError:
            return b""
