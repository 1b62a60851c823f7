"""Functions that mean harm: each ends with a clear verdict, leaves nothing behind, and harms nobody else."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from broker.errors import EnvironmentDied, Exited, HandlerMissing, Killed, OutOfMemory, TimedOut
from broker.quantity import Size
from broker.runtime.messages import Died, Done
from tests.conftest import until
from tests.integration.environment_driver import Driver, alive, driver, nursery

pytestmark = pytest.mark.timeout(60)

DO = """
import json, os, signal, socket, subprocess, sys, threading, time
CONTROL, OUTPUT = 100, 101
def say(header, body=b""):
    data = header + b"\\n" + body
    os.write(CONTROL, len(data).to_bytes(4, "big") + data)
def deep(levels):
    value = []
    for _ in range(levels): value = [value]
    return value
def handler(event, context):
    if isinstance(event, str) and event.startswith("!"):
        return exec(event[1:], globals() | {"context": context})
    if isinstance(event, str):
        return eval(event)
    return "harmless"
"""


def goes_on(driver: Driver) -> None:
    """The same function, in a new environment of the same nursery, works."""
    assert driver.result(driver.warm("function.py:handler"), 1) == "harmless"


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("float('nan')", "Runtime.MarshalError"),
        ("[1, {'x': float('inf')}]", "Runtime.MarshalError"),
        ("{1, 2}", "Runtime.MarshalError"),
        ("10 ** 5000", "Runtime.MarshalError"),
        ("deep(100_000)", "Runtime.MarshalError"),
        ("(lambda x: x.append(x) or x)([])", "Runtime.MarshalError"),
        ("'x' * (100 << 20)", "Function.ResponseSizeTooLarge"),
        ("(lambda f: f(f))(lambda f: f(f))", "RecursionError"),
    ],
)
def test_what_json_cannot_say_is_an_error_of_that_attempt_alone(driver: Driver, expression: str, error: str) -> None:
    environment = driver.warm(DO, memory=1 << 30)
    assert driver.error(environment, expression)["errorType"] == error
    assert driver.result(environment, 1) == "harmless"


@pytest.mark.parametrize("expression", ["'\\ud800'", "{'\\udfff': 1}", "2 ** 100", "deep(500)", "'\\x00'"])
def test_what_json_can_say_arrives_however_odd_it_is(driver: Driver, expression: str) -> None:
    environment = driver.warm(DO)
    assert json.dumps(driver.result(environment, expression))


def test_an_event_that_is_nested_too_deeply_is_an_error_of_that_attempt(driver: Driver) -> None:
    environment = driver.warm(DO)
    environment.send("a" * 32, 1, b"[" * 100_000 + b"]" * 100_000)
    environment.flush()
    driver.run(lambda: not environment.pending)
    [done] = [message for message in driver.messages[environment] if isinstance(message, Done)]
    assert not done.ok
    assert json.loads(done.body)["errorType"] == "RecursionError"
    assert driver.result(environment, 1) == "harmless"


def test_a_result_may_be_as_long_as_the_function_says(driver: Driver) -> None:
    driver.write("function.py", DO)
    small = driver.warm("function.py:handler", max_result=Size(1000))
    assert driver.error(small, "'x' * 999")["errorMessage"] == "the result has 1001 bytes; the limit is 1000"
    assert len(driver.result(small, "'x' * 998")) == 998
    large = driver.warm("function.py:handler", max_result=Size(20 << 20))
    assert len(driver.result(large, "'x' * (15 << 20)")) == 15 << 20


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("os.write(CONTROL, b'\\xff' * 100)", "a frame of"),
        ("os.write(CONTROL, b'\\x00\\x00\\x00\\x04abcd')", "without a header"),
        ("say(b'not json')", "malformed"),
        ('say(b\'{"id":"nobody","ok":true}\', b\'1\')', "which does not run"),
        ("say(b'{\"id\":7}')", "Expected `str`"),
        ("say(b'[' * 100_000)", ""),
        ("say(b'{\"files\":true}', b'{}')", "its files"),
        ('say(b\'{"id":"%s","ok":true,"us":9223372036854775807}\' % context.aws_request_id.encode(), b\'1\')', "<="),
        ('say(b\'{"id":"%s","ok":true,"rss":-1}\' % context.aws_request_id.encode(), b\'1\')', ">="),
        ("os.write(CONTROL, (100 << 20).to_bytes(4, 'big'))", "a frame of 104857604 bytes"),
        ("while True: os.write(OUTPUT, b'\\x00%s x\\n' % TOKEN)", "more markers"),
    ],
)
def test_nonsense_on_the_line_to_the_worker_ends_the_environment(driver: Driver, code: str, says: str) -> None:
    token = "import gc\nTOKEN = next(o._token for o in gc.get_objects() if type(o).__name__ == 'Environment')\n"
    environment = driver.warm(DO)
    driver.send(environment, f"!{token if 'TOKEN' in code else ''}{code}\ntime.sleep(60)")
    died = driver.died(environment)
    assert type(died.error) is EnvironmentDied
    assert str(died.error).startswith("wrote nonsense to the broker: ")
    assert says in str(died.error)
    goes_on(driver)


def test_a_forged_answer_concerns_its_own_attempt_alone(driver: Driver) -> None:
    environment = driver.warm(DO)
    forged = 'say(b\'{"id":"%s","ok":false}\' % context.aws_request_id.encode(), b\'[\' * 100_000)'
    first, second = driver.send(environment, f"!{forged}", 1)
    died = driver.died(environment)
    done = {message.invocation: message.ok for message in driver.messages[environment] if isinstance(message, Done)}
    assert done.pop(first) is False
    assert type(died.error) is EnvironmentDied
    # The second has given its own answer before the environment was ended, or was at work then.
    assert (done, died.current) in [({}, second), ({second: True}, None)]
    goes_on(driver)


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSTOP)", TimedOut, "timed out after 1s"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", TimedOut, "timed out after 1s"),
        ("os.closerange(0, 1000); time.sleep(60)", EnvironmentDied, "closed its connection to the broker"),
        ("os.close(1); os.close(2); time.sleep(60)", TimedOut, "timed out after 1s"),
        ("os._exit(0)", Exited, "exited with status 0"),
        ("threading.Thread(target=os._exit, args=(7,)).start(); time.sleep(60)", Exited, "exited with status 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", Killed, "was killed by SIGKILL"),
        ("os.killpg(0, signal.SIGKILL)", Killed, "was killed by SIGKILL"),
        ("subprocess.Popen('sleep 60', shell=True, start_new_session=True).wait()", TimedOut, "timed out after 1s"),
        (
            "os.fork() or os.setsid(); os.closerange(0, 1000); time.sleep(60)",
            EnvironmentDied,
            "closed its connection to the broker",
        ),
    ],
)
def test_however_it_stands_still_or_goes_it_ends_and_nothing_is_left(
    driver: Driver, code: str, kind: type[Exception], says: str
) -> None:
    environment = driver.warm(DO, timeout=1 if kind is TimedOut else 60)
    [id_] = driver.send(environment, f"!{code}")
    died = driver.died(environment)
    assert (type(died.error), str(died.error), died.current) == (kind, says, id_)
    assert driver.processes() == []
    goes_on(driver)


def test_a_time_limit_may_be_a_millisecond(driver: Driver) -> None:
    driver.write("function.py", DO)
    for _ in range(20):
        environment = driver.warm("function.py:handler", timeout=0.001)
        [id_] = driver.send(environment, "!time.sleep(60)")
        died = driver.died(environment)
        if died.current == id_:
            break
        assert died.unstarted == (id_,)  # it had not come to read it within the millisecond: nothing is held against it
    assert (type(died.error), str(died.error)) == (TimedOut, "timed out after 1ms")


def test_a_gigabyte_of_output_is_read_and_dropped(driver: Driver) -> None:
    environment = driver.warm(DO, timeout=60, log_limit=Size(1 << 16))
    done = driver.call(
        environment, "!data = b'y' * 65535 + b'\\n'\nfor _ in range(16384): os.write(1, data)", within=50
    )
    assert isinstance(done, Done)
    assert done.ok
    assert sum(len(line) for line in driver.text(environment)[:-1]) <= 1 << 16
    assert driver.text(environment)[-1].endswith("bytes dropped")


def test_a_stopped_nursery_is_woken(driver: Driver) -> None:
    environment = driver.warm(DO)
    assert driver.call(environment, "!os.kill(os.getppid(), signal.SIGSTOP)").ok
    until(lambda: _state(driver.nursery.pid) == "T")
    first = driver.nursery.pid
    goes_on(driver)
    assert driver.nursery.pid == first


def test_a_killed_nursery_is_replaced_and_its_environments_run_again(driver: Driver) -> None:
    one, other = driver.warm(DO), driver.warm("function.py:handler")
    driver.send(one, "!os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)")
    for environment in (one, other):
        assert isinstance(driver.died(environment).error, EnvironmentDied)
    assert driver.processes() == []
    goes_on(driver)


def test_killing_its_siblings_costs_those_their_attempt_and_nobody_else(driver: Driver) -> None:
    one, other = driver.warm(DO), driver.warm("function.py:handler")
    [id_] = driver.send(other, "!print('begun'); time.sleep(60)")
    driver.run(lambda: driver.text(other))
    assert driver.call(one, f"!os.kill({other.pid}, signal.SIGKILL)").ok
    died = driver.died(other)
    assert (type(died.error), died.current) == (Killed, id_)
    assert driver.result(one, 1) == "harmless"


def test_what_it_changes_of_python_does_not_keep_its_answers_from_coming(driver: Driver) -> None:
    environment = driver.warm(DO)
    for code in (
        "sys.stdout = sys.stderr = open('/dev/full', 'w')",
        "class Evil:\n    def flush(self): raise RuntimeError\n    write = flush\nsys.stdout = Evil()",
        "import builtins; builtins.print = None",
        "os.chdir('/')",
        "import logging; logging.getLogger().handlers.clear()",
        "sys.setrecursionlimit(100)",
        "os.umask(0o777)",
    ):
        assert driver.call(environment, f"!{code}").ok, code
    assert driver.result(environment, 1) == "harmless"


def test_threads_may_go_on_after_the_answer_and_their_words_belong_to_nobody(driver: Driver) -> None:
    environment = driver.warm(DO)
    spin = "!def spin():\n    while True: pass\nfor _ in range(3): threading.Thread(target=spin, daemon=True).start()"
    assert driver.call(environment, spin).ok
    assert driver.result(environment, 1) == "harmless"
    environment.stop()
    driver.died(environment)


def test_an_exception_that_cannot_be_printed_is_told_all_the_same(driver: Driver) -> None:
    environment = driver.warm(DO)
    error = driver.error(
        environment, "!class E(Exception):\n    def __str__(self): raise self\n    __repr__ = __str__\nraise E(E())"
    )
    assert error["errorType"] == "E"


def test_one_that_deletes_its_own_file_is_missing_the_next_time(driver: Driver) -> None:
    environment = driver.warm(DO)
    assert driver.call(environment, "!os.unlink('function.py')").ok
    until(environment.imported.stale)
    died = driver.died(driver.start("function.py:handler"))
    assert isinstance(died.error, HandlerMissing)


def test_as_many_files_as_it_can_open_do_not_matter_to_others(driver: Driver) -> None:
    environment = driver.warm(DO)
    opened = "![open('/dev/null') for _ in range(100_000)]"
    assert "Too many open files" in driver.error(environment, opened)["errorMessage"]
    assert driver.result(environment, 1) == "harmless"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
