"""What a function prints: read while it runs, told apart by invocation, and never too much for the worker."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import time
from pathlib import Path

import pytest

from broker.runtime.messages import Died, Done, Lines
from tests.integration.environment_driver import Driver, driver, nursery

pytestmark = pytest.mark.timeout(30)

DO = """
import logging, os, subprocess, sys, threading, time
def handler(event, context):
    exec(event)
"""


def test_a_line_can_be_read_while_the_function_runs(driver: Driver) -> None:
    environment = driver.warm(DO)
    for code in (
        "print('now')",
        "sys.stderr.write('now\\n')",
        "os.write(2, b'now\\n')",
        "subprocess.run(['echo', 'now'])",
        "logging.error('now')",
    ):
        [id_] = driver.send(environment, f"{code}\nwhile not os.path.exists('go'): time.sleep(0.005)")
        lines = driver.wait(
            environment, lambda message, id_=id_: isinstance(message, Lines) and message.invocation == id_
        )
        assert isinstance(lines, Lines)
        assert lines.lines[0].text in ("now", "[ERROR]\tnow")
        assert abs(lines.lines[0].time_ms - time.time() * 1000) < 5000
        assert list(environment.pending) == [id_]
        (driver.root / "go").touch()
        driver.run(lambda: not environment.pending)
        (driver.root / "go").unlink()


def test_each_line_belongs_to_the_invocation_that_printed_it(driver: Driver) -> None:
    environment = driver.warm("print('init')\ndef handler(event, context):\n    for i in range(3): print(event, i)\n")
    ids = driver.send(environment, *range(300))
    driver.run(lambda: not environment.pending)
    lines = driver.lines(environment)
    assert (lines[0][0], lines[0][1].text) == (None, "init")
    expected = [(id_, f"{n} {i}") for n, id_ in enumerate(ids) for i in range(3)]
    assert [(owner, line.text) for owner, line in lines[1:]] == expected


def test_lines_come_before_the_end_of_their_invocation(driver: Driver) -> None:
    environment = driver.warm("def handler(event, context): print('x' * event)\n")
    driver.send(environment, *[100, 5000, 20_000, 70_000, 1] * 4)
    driver.run(lambda: not environment.pending)
    ended: set[str] = set()
    for message in driver.messages[environment]:
        if isinstance(message, Lines):
            assert message.invocation not in ended
        elif isinstance(message, Done):
            ended.add(message.invocation)
    assert len(ended) == 20


def test_an_unfinished_line_is_a_line_when_the_invocation_ends(driver: Driver) -> None:
    environment = driver.warm(DO)
    driver.call(environment, "print('no end', end='')")
    driver.call(environment, "sys.stdout.write('next'); raise ValueError('on its own line')")
    assert driver.text(environment)[:3] == ["no end", "next", "[ERROR] ValueError: on its own line"]


def test_levels_are_known_from_logging_and_from_json(driver: Driver) -> None:
    environment = driver.warm(DO)
    driver.call(
        environment,
        "logging.getLogger('lib').info('one'); logging.debug('hidden'); logging.warning('two')\n"
        'print(\'{"level": "error", "msg": 1}\'); print(\'plain\')\n'
        "try: 1 / 0\nexcept ZeroDivisionError: logging.exception('three')",
    )
    got = [(line.level, line.text) for _, line in driver.lines(environment)]
    assert got[:5] == [
        ("INFO", "[INFO]\tone"),
        ("WARNING", "[WARNING]\ttwo"),
        ("ERROR", '{"level": "error", "msg": 1}'),
        ("", "plain"),
        ("ERROR", "[ERROR]\tthree"),
    ]
    assert got[-1] == ("", "ZeroDivisionError: division by zero")


def test_bytes_that_are_not_text_are_shown_as_escapes(driver: Driver) -> None:
    environment = driver.warm(DO)
    driver.call(environment, "os.write(1, b'\\xff\\xfe ok \\xe2\\x82\\xac\\r\\n'); print('\\ud800 ä')")
    assert driver.text(environment) == ["\\xff\\xfe ok €", "\\ud800 ä"]


def test_what_subprocesses_and_c_libraries_print_is_heard(driver: Driver) -> None:
    environment = driver.warm(DO + "import ctypes\nlibc = ctypes.CDLL(None)\n")
    driver.call(
        environment, "subprocess.run('echo out; echo err >&2', shell=True); libc.puts(b'from c'); libc.fflush(None)"
    )
    assert driver.text(environment) == ["out", "err", "from c"]


def test_a_hundred_megabytes_are_cut_to_the_limit_and_counted(driver: Driver) -> None:
    environment = driver.warm(DO, log_limit=1 << 20)
    before = _rss()
    done = driver.call(environment, "line = 'y' * 999\nfor _ in range(100_000): print(line)", within=20)
    assert isinstance(done, Done)
    assert done.ok
    lines = driver.text(environment)
    assert sum(len(line) + 1 for line in lines[:-1]) <= 1 << 20
    kept = len(lines) - 1
    assert kept > 1000
    dropped = 100_000_000 - kept * 1000
    assert lines[-1] == f"... output cut: more than 1MB in one attempt; {dropped} bytes dropped"
    assert _rss() - before < 16 << 20
    assert driver.call(environment, "print('the next may print again')").ok
    assert driver.text(environment)[-1] == "the next may print again"


def test_one_call_reads_a_bounded_amount(driver: Driver) -> None:
    environment = driver.warm(DO, log_limit=1 << 30)
    driver.send(environment, "while True: print('z' * 999)")
    end = time.monotonic() + 1
    while time.monotonic() < end:
        messages = environment.read()
        assert (
            sum(len(line.text) for message in messages if isinstance(message, Lines) for line in message.lines)
            < 400_000
        )


def test_a_line_without_end_comes_in_pieces(driver: Driver) -> None:
    environment = driver.warm(DO)
    driver.call(environment, "print('ä' * 50_000)")
    lines = driver.text(environment)
    assert "".join(lines) == "ä" * 50_000
    assert max(len(line.encode()) for line in lines) <= 16 << 10


@pytest.mark.parametrize(
    "code",
    [
        "os.close(1)",
        "os.close(1); os.close(2)",
        "sys.stdout.close(); sys.stderr.close()",
        "sys.stdout = None; sys.stderr = object()",
        "os.dup2(os.open('/dev/null', os.O_WRONLY), 1)",
        "os.dup2(2, 1); print('same')",
        "del sys.stdout",
    ],
)
def test_whatever_becomes_of_stdout_the_answer_comes(driver: Driver, code: str) -> None:
    environment = driver.warm(DO)
    assert isinstance(driver.call(environment, code), Done)
    failed = driver.call(environment, "raise ValueError('still told')")
    assert isinstance(failed, Done)
    assert "[ERROR] ValueError: still told" in driver.text(environment)


def test_an_orphan_that_holds_stdout_holds_up_nothing(driver: Driver) -> None:
    environment = driver.warm(DO)
    forever = "while true; do echo noise; sleep 0.01; done"
    assert driver.call(environment, f"subprocess.Popen(['sh', '-c', {forever!r}])").ok
    driver.wait(environment, lambda message: isinstance(message, Lines) and message.invocation is None)
    assert driver.call(environment, "print('mine')").ok
    environment.stop()
    driver.died(environment)


def test_an_orphan_that_floods_the_output_holds_up_nothing(driver: Driver) -> None:
    environment = driver.warm(DO)
    assert driver.call(environment, "subprocess.Popen(['yes'])").ok
    for _ in range(3):
        assert driver.call(environment, "pass").ok
    environment.stop()
    driver.died(environment)
    assert sum(len(line) + 1 for line in driver.text(environment)) < 6 << 20


def test_a_thread_that_prints_between_invocations_prints_for_none_of_them(driver: Driver) -> None:
    environment = driver.warm(DO)
    [id_] = driver.send(
        environment,
        "def late():\n    while not os.path.exists('go'): time.sleep(0.005)\n    print('late')\n"
        "threading.Thread(target=late).start(); print('early')",
    )
    driver.run(lambda: not environment.pending)
    (driver.root / "go").touch()
    driver.run(lambda: len(driver.lines(environment)) == 2)
    assert [(owner, line.text) for owner, line in driver.lines(environment)] == [(id_, "early"), (None, "late")]


def test_output_while_importing_fails_belongs_to_no_invocation(driver: Driver) -> None:
    environment = driver.start("print('before')\nimport nothing_of_that_name\ndef handler(e, c): pass\n")
    driver.send(environment, 1)
    died = driver.died(environment)
    assert isinstance(died, Died)
    assert {owner for owner, _ in driver.lines(environment)} == {None}
    text = driver.text(environment)
    assert text[0] == "before"
    assert "[ERROR] ModuleNotFoundError: No module named 'nothing_of_that_name'" in text
    assert "broker/runtime" not in "\n".join(text)


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
