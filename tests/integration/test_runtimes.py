"""What holds for each runtime: one handler, written in each language, that does what its event says."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import Exited, Killed, OutOfMemory, TimedOut
from broker.quantity import Size
from broker.runtime.messages import Died, Done
from tests.conftest import until
from tests.integration.environment_driver import Driver, alive, driver, nursery

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.runtime.environment import Environment

pytestmark = pytest.mark.timeout(60)

FILES = Path(__file__).parents[1] / "data/runtimes"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way to write a function."""

    runtime: str
    handler: str
    files: tuple[str, ...]
    error: str = "Trouble"
    """The type of the error that it raises."""
    stack: bool = True
    """Its errors tell where they come from."""
    kept: bool = True
    """One process runs one invocation after another."""


KINDS = {
    "python": Kind(runtime="python", handler="sink.py:handler", files=("sink.py",)),
    "nodejs-esm": Kind(runtime="nodejs", handler="sink.mjs:handler", files=("sink.mjs",)),
    "nodejs-cjs": Kind(runtime="nodejs", handler="sink.handler", files=("sink.cjs", "sink.mjs")),
    "java": Kind(runtime="java", handler="classes:Sink::handler", files=("classes/Sink.class",)),
    "provided": Kind(runtime="provided", handler="bootstrap:sink.handler", files=("bootstrap", "sink.py")),
    "awslambdaric": Kind(
        runtime="provided", handler=f"{sys.executable} -m awslambdaric sink.handler", files=("sink.py",)
    ),
    "exec": Kind(
        runtime="exec",
        handler="./sink.sh",
        files=("sink.sh", "sink.py"),
        error="Runtime.ExitError",
        stack=False,
        kept=False,
    ),
}


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sink.java, compiled once: each environment that does so takes a second."""
    folder = tmp_path_factory.mktemp("java") / "classes"
    subprocess.run(["javac", "-d", folder, FILES / "Sink.java"], check=True)
    return folder


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, driver: Driver) -> Kind:
    kind = KINDS[request.param]
    if kind.runtime == "java":
        shutil.copytree(request.getfixturevalue("classes"), driver.root / "classes")
        return kind
    for name in kind.files:
        shutil.copy(FILES / name, driver.root / name)
    if "sink.cjs" in kind.files:  # `sink.handler` must lead to the one that is meant
        (driver.root / "sink.cjs").rename(driver.root / "sink.js")
    return kind


def started(driver: Driver, kind: Kind, **options: Any) -> Environment:
    return driver.warm(kind.handler, runtime=kind.runtime, **options)


def do(what: str, given: Any = None) -> dict[str, Any]:
    return {"do": what, "with": given}


def test_json_and_unicode_and_large_payloads_come_back_as_they_were_sent(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind)
    for value in (None, 1.5, "ä\n\0𝄞", [1, {"a": None}, []], "x" * 3_000_000):
        assert driver.result(environment, do("echo", value)) == value


def test_processor_time_is_told_with_the_attempts_or_at_the_end(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind)
    assert len(driver.result(environment, do("echo", "x" * 3_000_000))) == 3_000_000
    environment.stop()
    driver.died(environment)
    told = [message.cpu_us for message in driver.messages[environment] if isinstance(message, Done | Died)]
    assert min(told) >= 0
    assert 5_000 < sum(told) < 60_000_000


def test_invocations_sent_ahead_are_answered_in_order(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind)
    ids = driver.send(environment, *(do("echo", number) for number in range(8)))
    driver.run(lambda: not environment.pending, within=30)
    done = [message for message in driver.messages[environment] if isinstance(message, Done)]
    assert [message.invocation for message in done] == ids
    assert [json.loads(message.body) for message in done] == list(range(8))


def test_an_environment_is_used_again(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind)
    counts = [driver.result(environment, do("warm")) for _ in range(3)]
    assert counts == ([1, 2, 3] if kind.kept else [1, 1, 1])


def test_an_error_tells_its_type_its_message_and_where_it_comes_from(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind)
    error = driver.error(environment, do("fail"))
    assert (error["errorType"], error["errorMessage"]) == (kind.error, "no luck")
    if kind.stack:
        assert "sink" in "".join(error["stackTrace"]).lower()
    assert "broker/runtime" not in "".join(error["stackTrace"])
    assert any(line.startswith(f"[ERROR] {kind.error}: ") for line in driver.text(environment))
    assert driver.result(environment, do("echo", 1)) == 1


def test_lines_belong_to_their_invocation_and_stand_in_order(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind)
    ids = driver.send(environment, do("shout", "a"), do("shout", "b"))
    driver.run(lambda: not environment.pending, within=20)
    for id_, given in zip(ids, "ab", strict=True):
        said = [line.text for owner, line in driver.lines(environment) if owner == id_]
        assert [line for line in said if not line.startswith("err")] == [
            *(f"out {number} {given}" for number in range(3)),
            "child",
            *(["null"] if kind.runtime == "exec" else []),
        ]
        assert f"err {given}" in said


def test_a_handler_knows_its_invocation_and_its_variables_and_no_others(
    driver: Driver, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "secret")
    environment = started(driver, kind, variables={"COLOR": "blä"}, timeout=20)
    names = ["COLOR", "AWS_LAMBDA_FUNCTION_NAME", "LAMBDA_TASK_ROOT", "BROKER_ENVIRONMENT", "REDIS_PASSWORD"]
    [id_] = driver.send(environment, do("tell", names))
    driver.run(lambda: not environment.pending)
    done = driver.messages[environment][-1]
    assert isinstance(done, Done)
    told = json.loads(done.body)
    assert list(told["variables"].values()) == ["blä", "fn", str(driver.root), environment.id, None]
    assert told["cwd"] == str(driver.root)
    assert told["fields"][:2] == [id_, "fn"]
    assert 10_000 < told["fields"][2] <= 20_000


def test_a_timeout_ends_the_whole_tree(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind, timeout=60)
    driver.send(environment, do("hang"))
    tree: list[int] = []

    def hanging() -> bool:
        tree[:] = driver.processes()
        return "hanging" in driver.text(environment)

    driver.run(hanging)
    driver.overdue(environment)
    died = driver.died(environment)
    assert isinstance(died.error, TimedOut)
    assert len(tree) >= 3
    until(lambda: not any(map(alive, tree)))


def test_one_that_exits_has_died(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind)
    if not kind.kept:
        assert driver.error(environment, do("leave", 7))["errorMessage"] == "exited with status 7"
        return
    [id_] = driver.send(environment, do("leave", 7))
    died = driver.died(environment)
    assert (type(died.error), str(died.error), died.current) == (Exited, "exited with status 7", id_)


def test_one_that_is_killed_has_died(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind)
    [id_, _] = driver.send(environment, do("crash"), do("echo"))
    died = driver.died(environment)
    assert isinstance(died.error, Killed)
    assert ("SIGKILL" if kind.runtime == "java" else "SIGSEGV") in str(died.error)  # Java has a handler for SIGSEGV
    assert died.current == id_
    assert len(died.unstarted) == 1


def test_one_that_outgrows_its_memory_is_out_of_memory(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind, memory=128 << 20, timeout=30)
    driver.send(environment, do("fill"))
    died = driver.died(environment, within=30)
    assert isinstance(died.error, OutOfMemory), died


def test_a_result_of_more_than_6_mb_is_an_error(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind)
    error = driver.error(environment, do("big", 7_000_000))
    assert error["errorType"] == "Function.ResponseSizeTooLarge"
    fresh = started(driver, kind)  # awslambdaric ends when it is told that its response is too long
    assert driver.result(fresh, do("big", 6_000_000)) == "x" * 6_000_000


def test_the_limit_of_a_result_is_the_functions_own(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind, max_result=Size(1000))
    error = driver.error(environment, do("big", 1000))
    assert error["errorType"] == "Function.ResponseSizeTooLarge"
    assert "1000" in error["errorMessage"]
    assert driver.result(started(driver, kind, max_result=Size(1000)), do("big", 998)) == "x" * 998


def test_no_result_that_is_not_json_is_taken_on(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind)
    done = driver.call(environment, do("nan"))
    assert isinstance(done, Done)
    if kind.runtime == "nodejs":  # JSON.stringify makes null of it, on AWS Lambda, too
        assert (done.ok, done.body) == (True, b"[null]")
    else:
        assert json.loads(done.body)["errorType"] == "Runtime.MarshalError"


def test_one_that_is_stopped_finishes_what_it_was_sent(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind)
    ids = driver.send(environment, do("echo", 1), do("echo", 2))
    environment.stop()
    died = driver.died(environment)
    done = [message.invocation for message in driver.messages[environment] if isinstance(message, Done)]
    assert done == ids
    assert str(died.error) == "was stopped"


def test_a_changed_handler_makes_its_environment_stale(driver: Driver, kind: Kind) -> None:
    environment = started(driver, kind)
    if not kind.kept:  # the program is read again for each attempt
        (driver.root / kind.handler).write_text("#!/bin/sh\necho 7\n")
        assert driver.result(environment) == 7
        return
    assert not environment.imported.stale()
    for name in kind.files:
        path = driver.root / name
        if path.exists():
            path.write_bytes(path.read_bytes() + b"\n")
    until(environment.imported.stale)
