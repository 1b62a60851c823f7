"""One environment: what a handler gets, and what its result or its failure becomes."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from broker.runtime.messages import Done, Ready
from tests.integration.environment_driver import Driver, driver, nursery

pytestmark = pytest.mark.timeout(30)

ECHO = """
def handler(event, context):
    return event
"""


@pytest.mark.parametrize("event", [None, 1.5, "ä\n\0", [1, {"a": None}], {"deep": [[[]]]}, "x" * 3_000_000])
def test_what_json_can_say_comes_back_as_it_was_sent(driver: Driver, event: object) -> None:
    assert driver.result(driver.warm(ECHO), event) == event


def test_invocations_sent_ahead_run_in_order_and_each_is_answered_once(driver: Driver) -> None:
    environment = driver.warm(ECHO)
    ids = driver.send(environment, *range(2000))
    assert list(environment.pending) == ids
    driver.run(lambda: not environment.pending)
    done = [message for message in driver.messages[environment] if not isinstance(message, Ready)]
    assert [message.invocation for message in done] == ids
    assert [json.loads(message.body) for message in done] == list(range(2000))


def test_invocations_may_be_sent_before_it_is_ready(driver: Driver) -> None:
    environment = driver.start(ECHO)
    assert driver.result(environment, "early") == "early"
    assert isinstance(driver.messages[environment][0], Ready)


def test_a_large_event_does_not_block_the_sender(driver: Driver) -> None:
    environment = driver.warm("import time\ndef handler(event, context): return len(event)\n")
    os.kill(environment.pid, signal.SIGSTOP)  # else it may read as fast as all is written
    environment.send("0" * 32, 1, json.dumps("x" * 20_000_000).encode())
    environment.flush()
    assert environment.wants_write
    os.kill(environment.pid, signal.SIGCONT)
    driver.run(lambda: not environment.pending)
    assert driver.messages[environment][-1].body == b"20000000"
    assert not environment.wants_write


def test_the_context_is_as_on_lambda(driver: Driver) -> None:
    environment = driver.warm(
        """
        import os
        def handler(event, c):
            c.log("logged")
            return [c.function_name, c.function_version, c.invoked_function_arn, c.memory_limit_in_mb,
                    c.aws_request_id, c.log_group_name, c.log_stream_name, c.client_context, c.attempt,
                    c.identity.cognito_identity_id, c.identity.cognito_identity_pool_id,
                    os.environ["_X_AMZN_TRACE_ID"], c.get_remaining_time_in_millis()]
        """,
        timeout=7,
        memory=100 << 20,
    )
    environment.send("ab" * 16, 3, b"null")
    environment.flush()
    driver.run(lambda: not environment.pending)
    *fields, remaining = json.loads(driver.messages[environment][-1].body)
    arn = "arn:aws:lambda:local:000000000000:function:fn"
    assert fields[:6] == ["fn", "$LATEST", arn, 100, "ab" * 16, "/broker/fn"]
    assert fields[6].endswith(f"[$LATEST]{environment.id}")
    trace = f"Root=1-{'ab' * 4}-{'ab' * 12};Parent={'ab' * 8};Sampled=0"
    assert fields[7:] == [None, 3, None, None, trace]
    assert 5000 < remaining <= 7000
    assert driver.text(environment) == ["logged"]


def test_the_context_tells_what_the_caller_said_of_itself_in_that_invocation_alone(driver: Driver) -> None:
    environment = driver.warm(
        """
        def handler(event, c):
            said = c.client_context
            client = said and said.client
            return said and [said.custom, said.env, client and [client.app_title, client.app_package_name]]
        """
    )
    said = [b"", b'{"custom":{"a":[1]},"env":{"b":"c"},"client":{"app_title":"t"}}', b"{}", b""]
    for client in said:
        environment.send("a" * 32, 1, b"null", client)
        environment.flush()
        driver.run(lambda: not environment.pending)
    bodies = [json.loads(one.body) for one in driver.messages[environment] if isinstance(one, Done)]
    assert bodies == [None, [{"a": [1]}, {"b": "c"}, ["t", None]], [None, None, None], None]


def test_it_runs_in_the_projects_folder_with_its_own_variables_only(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "secret")
    fresh = Driver(driver.root)  # started with the secret in its environment
    try:
        environment = fresh.warm(
            "import os, sys\ndef handler(event, context): return [os.getcwd(), sys.path[0], dict(os.environ)]\n",
            variables={"COLOR": "blue", "TZ": "Asia/Tokyo"},
            memory=64 << 20,
        )
        cwd, first, variables = fresh.result(environment)
    finally:
        fresh.nursery.close()
    assert cwd == first == str(driver.root)
    assert "REDIS_PASSWORD" not in variables
    assert variables["COLOR"] == "blue"
    assert variables["_HANDLER"] == "function.py:handler"
    assert variables["AWS_LAMBDA_FUNCTION_NAME"] == "fn"
    assert variables["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "64"
    assert variables["LAMBDA_TASK_ROOT"] == str(driver.root)
    assert Path(variables["LAMBDA_RUNTIME_DIR"]).is_dir()
    assert variables["AWS_EXECUTION_ENV"] == "AWS_Lambda_python{}.{}".format(*sys.version_info)
    assert variables["AWS_REGION"] == variables["AWS_DEFAULT_REGION"] == "local"
    assert variables["BROKER_ENVIRONMENT"] == environment.id


def test_region_and_time_zone_are_the_functions_own_or_the_same_everywhere(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TZ", raising=False)
    code = """
        import os, time
        def handler(event, c): return [os.environ["AWS_DEFAULT_REGION"], c.invoked_function_arn, time.tzname[0]]
        """
    usual = driver.warm(code)
    assert driver.result(usual) == ["local", "arn:aws:lambda:local:000000000000:function:fn", "UTC"]
    named = driver.warm(code, variables={"AWS_REGION": "eu-central-1", "TZ": "Asia/Tokyo"})
    arn = "arn:aws:lambda:eu-central-1:000000000000:function:fn"
    assert driver.result(named) == ["eu-central-1", arn, "JST"]


def test_variables_that_libc_and_python_read_early_still_count(driver: Driver) -> None:
    driver.write("lib/extra.py", "VALUE = 7\n")
    environment = driver.warm(
        "import time, extra\ndef handler(event, context): return [time.tzname[0], extra.VALUE]\n",
        variables={"TZ": "Asia/Tokyo", "PYTHONPATH": str(driver.root / "lib")},
    )
    assert driver.result(environment) == ["JST", 7]


def test_it_has_no_descriptors_but_its_own(driver: Driver) -> None:
    environment = driver.warm(
        """
        import os, subprocess, sys
        def fds(pid): return sorted(int(n) for n in os.listdir(f"/proc/{pid}/fd"))
        def handler(event, context):
            code = "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"
            child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, close_fds=False)
            return [os.readlink("/proc/self/fd/0"), sys.stdin.read(), fds("self"), child.stdout]
        """
    )
    stdin, read, own, child = driver.result(environment)
    assert (stdin, read) == ("/dev/null", "")
    assert [fd for fd in own if fd < 100] == [0, 1, 2, 3]  # 3 is the listing itself
    assert len([fd for fd in own if fd >= 100]) == 2
    assert child == "[0, 1, 2, 3]\n"


def test_it_is_kept_warm_between_invocations(driver: Driver) -> None:
    environment = driver.warm("n = 0\ndef handler(event, context):\n    global n\n    n += 1\n    return n\n")
    assert [driver.result(environment) for _ in range(3)] == [1, 2, 3]


def test_asynchronous_handlers_share_one_loop(driver: Driver) -> None:
    environment = driver.warm(
        """
        import asyncio
        loops = set()
        async def handler(event, context):
            await asyncio.sleep(0.001)
            loops.add(id(asyncio.get_running_loop()))
            if event == "fail":
                raise ValueError("async")
            return len(loops)
        """
    )
    assert driver.result(environment) == 1
    error = driver.error(environment, "fail")
    assert error["errorType"] == "ValueError"
    assert len(error["stackTrace"]) == 1
    assert driver.result(environment) == 1


def test_a_failure_is_told_as_lambda_tells_it(driver: Driver) -> None:
    environment = driver.warm(
        """
        def deeper():
            raise ValueError("no such thing")
        def handler(event, context):
            deeper()
        """
    )
    error = driver.error(environment)
    path = driver.root / "function.py"
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "no such thing")
    assert [frame.splitlines()[0] for frame in error["stackTrace"]] == [
        f'  File "{path}", line 5, in handler',
        f'  File "{path}", line 3, in deeper',
    ]
    printed = driver.text(environment)
    assert printed[:3] == [
        "[ERROR] ValueError: no such thing",
        "Traceback (most recent call last):",
        f'  File "{path}", line 5, in handler',
    ]
    assert "broker/runtime" not in "".join(printed)
    assert driver.lines(environment)[0][1].level == "ERROR"


def test_the_exceptions_that_led_to_one_are_trimmed_and_printed_too(driver: Driver) -> None:
    environment = driver.warm(
        """
        def handler(event, context):
            try:
                raise KeyError("first")
            except KeyError as error:
                raise ValueError("second") from error
        """
    )
    assert driver.error(environment)["errorType"] == "ValueError"
    printed = "\n".join(driver.text(environment))
    assert "KeyError: 'first'" in printed
    assert "direct cause" in printed
    assert "broker/runtime" not in printed


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("raise GeneratorExit('g')", "GeneratorExit", "g"),
        ("class E(BaseException): pass\n    raise E('mine')", "E", "mine"),
        ("def f(): f()\n    f()", "RecursionError", "maximum recursion depth exceeded"),
        ("raise ValueError('\\ud800')", "ValueError", r"\ud800"),
        (
            "class E(Exception):\n        def __str__(self): raise TypeError\n    raise E",
            "E",
            "<E that cannot be printed>",
        ),
        ("raise ExceptionGroup('two', [ValueError(1), KeyError(2)])", "ExceptionGroup", "two (2 sub-exceptions)"),
        (
            "return {1, 2}",
            "Runtime.MarshalError",
            "the result is not JSON: Object of type set is not JSON serializable",
        ),
        ("return float('nan')", "Runtime.MarshalError", "the result is not JSON: Out of range float values"),
        ("return {(1,): 2}", "Runtime.MarshalError", "the result is not JSON: keys must be str"),
        ("x = []; x.append(x); return x", "Runtime.MarshalError", "the result is not JSON: Circular reference"),
        ("return object", "Runtime.MarshalError", "the result is not JSON: Object of type type is not"),
        (
            "return 'x' * 7_000_000",
            "Function.ResponseSizeTooLarge",
            "the result has 7000002 bytes; the limit is 6291456",
        ),
    ],
)
def test_a_failure_ends_the_attempt_and_not_the_environment(driver: Driver, code: str, kind: str, message: str) -> None:
    environment = driver.warm(f"def handler(event, context):\n    if event == 'fine': return 1\n    {code}\n")
    error = driver.error(environment)
    assert error["errorType"] == kind
    assert error["errorMessage"].startswith(message)
    assert driver.result(environment, "fine") == 1


def test_an_event_that_is_not_json_fails_the_attempt(driver: Driver) -> None:
    environment = driver.warm(ECHO)
    environment.send("0" * 32, 1, b'{"a":')
    environment.flush()
    driver.run(lambda: not environment.pending)
    assert json.loads(driver.messages[environment][-1].body)["errorType"] == "JSONDecodeError"
    assert driver.result(environment, 1) == 1


def test_a_handler_may_fork_workers_of_its_own(driver: Driver) -> None:
    environment = driver.warm(
        """
        import multiprocessing, os
        def double(n): return 2 * n
        def handler(event, context):
            with multiprocessing.get_context(event).Pool(2) as pool:
                return pool.map(double, [1, 2, 3])
        """
    )
    assert driver.result(environment, "fork") == [2, 4, 6]
    assert driver.result(environment, "spawn") == [2, 4, 6]


def test_the_copy_of_the_environment_in_a_forked_child_answers_nothing(driver: Driver) -> None:
    environment = driver.warm(
        """
        import os
        def handler(event, context):
            pid = os.fork()
            if pid == 0:
                if event == "raise": raise ValueError("in the child")
                return "child"
            os.waitpid(pid, 0)
            return "parent"
        """
    )
    assert driver.result(environment, "return") == "parent"
    assert driver.result(environment, "raise") == "parent"
    assert driver.result(environment, "return") == "parent"


def test_memory_used_is_reported(driver: Driver) -> None:
    environment = driver.warm("def handler(event, context):\n    return len(b'x' * (50 << 20))\n")
    done = driver.call(environment)
    assert 50 << 20 < done.max_rss < 120 << 20
    assert done.duration_ms > 0


def test_changed_code_makes_it_stale(driver: Driver) -> None:
    driver.write("part.py", "VALUE = 1\n")
    driver.write("later.py", "VALUE = 1\n")
    code = "import part\ndef handler(event, context):\n    if event: import later\n"
    one, other = driver.warm(code), driver.warm("function.py:handler")
    driver.result(other, "import later")
    time.sleep(0.2)
    assert not one.imported.stale()
    assert not other.imported.stale()
    driver.write("later.py", "VALUE = 22\n")
    driver.run(other.imported.stale)
    assert not one.imported.stale()
    driver.write("part.py", "VALUE = 22\n")
    driver.run(one.imported.stale)


def test_deleted_code_makes_it_stale(driver: Driver) -> None:
    environment = driver.warm(ECHO)
    (driver.root / "function.py").unlink()
    driver.run(environment.imported.stale)


def test_code_that_was_written_while_it_was_imported_makes_it_stale(driver: Driver) -> None:
    code = """
        import os, time
        time.sleep(0.05)
        os.utime(__file__)
        def handler(event, context): pass
        """
    environment = driver.warm(code)
    driver.run(environment.imported.stale)
