"""Environments that run as another user, or inside bubblewrap: what they see, what they may do, and how they end."""

# ruff: noqa: F401 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import Exited, Killed, OutOfMemory, TimedOut
from broker.quantity import Size
from broker.runtime import account, nursery
from broker.runtime.imported import LOOK_EVERY
from broker.runtime.isolation import Isolation
from broker.runtime.messages import Ready
from broker.runtime.nursery import Nursery
from sources._file.folder import make_folder
from tests.conftest import until
from tests.integration.environment_driver import Driver, alive

pytestmark = pytest.mark.timeout(60)

DO = """
import ctypes, json, os, resource, signal, socket, subprocess, sys, threading, time
from pathlib import Path
def handler(event, context):
    if event.startswith("!"):
        return exec(event[1:])
    return eval(event)
"""

INTERPRETERS = (sys.executable, "/usr/bin/python3")


def needs(program: str) -> None:
    """Skip a test where a program is missing; in CI it fails, since .ci/run installs it."""
    if shutil.which(program) is None:
        assert not os.environ.get("CI"), f"{program} is missing"
        pytest.skip(f"{program} is not installed")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A project's folder that every user can read; pytest's own are private."""
    path = Path(tempfile.mkdtemp(prefix="isolated-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def bubble(folder: Path) -> Iterator[Driver]:
    needs("bwrap")
    (folder / ".broker").mkdir()
    for name in (".env", "config.toml", ".broker/socket"):
        (folder / name).write_text("SECRET")
    hidden = (folder / ".env", folder / "config.toml", folder / ".broker")
    yield from _driver(folder, Isolation(root=folder, hidden=hidden))


@pytest.fixture
def other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """A driver whose environments run as nobody."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    nobody = account.named("nobody")
    assert nobody
    found = [path for path in INTERPRETERS if nobody.may_read(Path(path).resolve())]
    assert found, "no Python that nobody may read"
    monkeypatch.setattr(nursery.sys, "executable", found[0])
    package = folder / "package" / "broker"  # this one may lie where nobody may read
    shutil.copytree(Path(nursery.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(nursery, "__file__", str(package / "runtime" / "nursery.py"))
    os.chown(folder, nobody.uid, nobody.gid)
    yield from _driver(folder, Isolation(root=folder, accounts={"fn": nobody}))


def _driver(folder: Path, isolation: Isolation) -> Iterator[Driver]:
    driver = Driver(folder, Nursery(folder, isolation))
    yield driver
    driver.nursery.close()
    assert driver.processes() == []


def test_in_a_bubble_files_can_be_read_and_not_written(bubble: Driver) -> None:
    (bubble.root / "data").write_text("read me")
    environment = bubble.warm(DO, isolation="bwrap")
    assert bubble.result(environment, "open('data').read()") == "read me"
    assert bubble.result(environment, "os.getcwd()") == str(bubble.root)
    for path in ("new", "data", "/etc/new", "/var/tmp/new"):
        assert bubble.error(environment, f"open({path!r}, 'a')")["errorMessage"].startswith("[Errno 30] Read-only")


def test_in_a_bubble_what_is_listed_can_be_written(bubble: Driver) -> None:
    (bubble.root / "out").mkdir()
    writable = ["out"]
    environment = bubble.warm(DO, isolation="bwrap", writable=writable)
    assert bubble.result(environment, "open('out/new', 'w').write('x')") == 1
    assert (bubble.root / "out/new").read_text() == "x"
    assert "Read-only" in bubble.error(environment, "open('new', 'w')")["errorMessage"]


def test_in_a_bubble_configuration_secrets_and_the_brokers_data_are_out_of_sight(bubble: Driver) -> None:
    for writable in ([], ["."]):
        environment = bubble.warm(DO, isolation="bwrap", writable=writable)
        for name in (".env", "config.toml"):
            assert "denied" in bubble.error(environment, f"open({name!r})")["errorMessage"]
        assert bubble.result(environment, "os.listdir('.broker')") == []


def test_in_a_bubble_what_links_to_a_secret_hides_it(bubble: Driver) -> None:
    (bubble.root / ".env").rename(bubble.root / "secrets")
    (bubble.root / ".env").symlink_to("secrets")
    (bubble.root / ".broker").rename(bubble.root / "elsewhere")
    (bubble.root / ".broker").symlink_to("elsewhere")
    environment = bubble.warm(DO, isolation="bwrap")
    for name in (".env", "secrets"):
        assert "denied" in bubble.error(environment, f"open({name!r})")["errorMessage"]
    assert bubble.result(environment, "os.listdir('.broker') + os.listdir('elsewhere')") == []


@pytest.mark.parametrize("name", [".env", "config.toml"])
def test_a_bubble_ends_when_a_secret_is_replaced_or_comes_to_be(bubble: Driver, name: str) -> None:
    for _ in range(2):
        environment = bubble.warm(DO, isolation="bwrap")
        time.sleep(2 * LOOK_EVERY)  # it has looked
        assert not environment.imported.stale()
        (bubble.root / "new").write_text("NEW SECRET")
        (bubble.root / "new").rename(bubble.root / name)
        until(environment.imported.stale)
        (bubble.root / name).unlink()  # the second one begins without


def test_in_a_bubble_tmp_is_its_own_and_as_large_as_allowed(bubble: Driver) -> None:
    environment = bubble.warm(DO, isolation="bwrap", tmp=Size(1 << 20))
    assert bubble.result(environment, "os.environ['TMPDIR']") == "/tmp"
    assert bubble.result(environment, "os.listdir('/run')") == []
    assert bubble.result(environment, "open('/tmp/x', 'w').write('mine')") == 4
    assert not Path("/tmp/x").exists()
    assert "No space left" in bubble.error(environment, "open('/tmp/y', 'wb').write(bytes(2 << 20))")["errorMessage"]


def test_in_a_bubble_there_is_no_network_unless_it_is_allowed(bubble: Driver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect = f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=5).close()"
        environment = bubble.warm(DO, isolation="bwrap")
        assert "Connection refused" in bubble.error(environment, connect)["errorMessage"]
        assert bubble.result(bubble.warm(DO, isolation="bwrap", network=True), connect) is None


def test_in_a_bubble_other_processes_cannot_be_seen(bubble: Driver) -> None:
    environment = bubble.warm(DO, isolation="bwrap")
    numbers = bubble.result(environment, "[int(name) for name in os.listdir('/proc') if name.isdigit()]")
    assert max(numbers) < 50
    assert "No such process" in bubble.error(environment, f"os.kill({os.getpid()}, 0)")["errorMessage"]


def test_in_a_bubble_it_inherits_no_descriptor_and_has_only_its_own_variables(
    bubble: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    environment = bubble.warm(DO, isolation="bwrap", variables={"OWN": "1"})
    opened = bubble.result(environment, "sorted(int(fd) for fd in os.listdir('/proc/self/fd'))")
    assert len(opened) <= 6  # three standard ones, two lines, and the one that reads the list
    assert bubble.result(environment, "os.environ.get('TOKEN')") is None
    assert bubble.result(environment, "os.environ['OWN']") == "1"
    child = "subprocess.run(['ls', '/proc/self/fd'], capture_output=True, text=True).stdout.split()"
    assert len(bubble.result(environment, child)) == 4


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("!os._exit(3)", Exited, "exited with status 3"),
        ("!os.kill(os.getpid(), signal.SIGKILL)", Killed, "was killed by SIGKILL"),
        ("!ctypes.string_at(0)", Killed, "was killed by SIGSEGV"),
        ("!time.sleep(60)", TimedOut, "timed out after 1s"),
        ("!subprocess.Popen(['sleep', '60'], start_new_session=True); os._exit(1)", Exited, "exited with status 1"),
    ],
)
def test_in_a_bubble_it_ends_as_elsewhere(bubble: Driver, code: str, kind: type[Exception], message: str) -> None:
    environment = bubble.warm(DO, isolation="bwrap", timeout=1 if kind is TimedOut else 60)
    [id_] = bubble.send(environment, code)
    died = bubble.died(environment)
    assert (type(died.error), str(died.error), died.current) == (kind, message, id_)
    assert bubble.processes() == []


def test_in_a_bubble_memory_is_watched_too(bubble: Driver) -> None:
    environment = bubble.warm(DO, isolation="bwrap", memory=64 << 20)
    bubble.send(environment, "!x = [bytes(1 << 20) + b'x' for _ in range(100)]; time.sleep(60)")
    assert isinstance(bubble.died(environment).error, OutOfMemory)


def test_in_a_bubble_a_changed_handler_is_noticed_and_lines_are_told_apart(bubble: Driver) -> None:
    environment = bubble.warm(DO, isolation="bwrap")
    [one, two] = bubble.send(environment, "!print('one')", "!print('two')")
    bubble.run(lambda: not environment.pending)
    assert [(owner, line.text) for owner, line in bubble.lines(environment)] == [(one, "one"), (two, "two")]
    bubble.write("function.py", DO + "\n# changed\n")
    until(environment.imported.stale)


@pytest.mark.parametrize(
    ("runtime", "name", "code"),
    [
        ("nodejs", "f.mjs:handler", "export const handler = async (event) => ({ pid: process.pid, event });\n"),
        ("exec", "./f.sh", '#!/bin/sh\necho "{\\"pid\\": $$, \\"event\\": $(cat)}"\n'),
    ],
)
def test_other_languages_run_in_a_bubble_too(bubble: Driver, runtime: str, name: str, code: str) -> None:
    path = bubble.root / name.partition(":")[0]
    path.write_text(code)
    path.chmod(0o755)
    result = bubble.result(bubble.warm(name, runtime=runtime, isolation="bwrap"), 7)
    assert result["event"] == 7
    assert result["pid"] < 50


def test_a_line_that_names_what_a_bubble_hides_does_not_uncover_it(bubble: Driver) -> None:
    for path in (".broker/socket", ".env"):
        line = f"/bin/cat {bubble.root}/{path}"
        environment = bubble.start(line, runtime="exec", isolation="bwrap")
        assert bubble.error(environment, 1)["errorMessage"]
        assert "SECRET" not in str(bubble.text(environment))


def test_a_bubble_that_cannot_be_made_is_an_init_that_failed(bubble: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.runtime.isolation.PROGRAM", "bwrap-that-is-not-there")
    environment = bubble.start(DO, isolation="bwrap")
    died = bubble.died(environment)
    assert died.init
    assert bubble.text(environment) == ["[ERROR] bwrap-that-is-not-there cannot be run: No such file or directory"]


def test_another_user_is_another_user_for_good(other: Driver) -> None:
    environment = other.warm(DO)
    assert other.result(environment, "[*os.getresuid(), *os.getresgid()]") == [65534] * 6
    assert other.result(environment, "os.getgroups()") == [65534]
    assert other.result(environment, "[os.environ[name] for name in ('USER', 'LOGNAME', 'HOME')]") == [
        "nobody",
        "nobody",
        "/nonexistent",
    ]
    assert "not permitted" in other.error(environment, "os.setuid(0)")["errorMessage"]
    assert other.result(
        environment, "[line.split()[1] for line in open('/proc/self/status') if line.startswith('CapEff')]"
    ) == ["0000000000000000"]


def test_another_user_has_a_tmp_of_its_own_and_writes_what_is_its_own(other: Driver) -> None:
    environment = other.warm(DO)
    tmp = other.result(environment, "os.environ['TMPDIR']")
    assert other.result(environment, "open(os.environ['TMPDIR'] + '/x', 'w').write('x')") == 1
    assert Path(tmp).stat().st_uid == 65534
    assert other.result(environment, "open('new', 'w').write('x')") == 1
    assert "denied" in other.error(environment, "open('/etc/new', 'w')")["errorMessage"]
    environment.stop()
    other.died(environment)
    until(lambda: not Path(tmp).exists())


def test_another_user_cannot_touch_the_worker_or_the_nursery(other: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = other.warm(DO)
    for pid in (os.getpid(), other.nursery.pid):
        for number in (signal.SIGKILL, signal.SIGSTOP):
            assert "not permitted" in other.error(environment, f"os.kill({pid}, {int(number)})")["errorMessage"]
        for name in ("environ", "mem", "fd/0"):
            assert "denied" in other.error(environment, f"open('/proc/{pid}/{name}', 'rb')")["errorMessage"]


def test_another_users_processes_all_end_and_die_with_the_nursery(other: Driver) -> None:
    environment = other.warm(DO, timeout=1)
    other.send(environment, "!subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)")
    assert isinstance(other.died(environment).error, TimedOut)
    assert other.processes() == []
    environment = other.warm(DO)
    os.kill(other.nursery.pid, signal.SIGKILL)
    other.died(environment)
    until(lambda: not alive(environment.pid or 0))


def test_a_bubble_of_another_user_counts_its_processes_in_the_kernel(other: Driver) -> None:
    needs("bwrap")
    environment = other.warm(DO, isolation="bwrap", processes=30)
    started = other.error(environment, "[subprocess.Popen(['sleep', '20']) for _ in range(60)]")
    assert "Resource temporarily unavailable" in started["errorMessage"]
    assert not environment.dead
    assert other.result(environment, "os.geteuid()") == 65534
    assert other.error(environment, "os.setuid(0)")["errorMessage"].startswith("[Errno")


def test_processes_that_keep_secrets_cannot_be_read_by_others_of_their_user(other: Driver) -> None:
    environment = other.warm(DO)
    open_one = "import time; print(flush=True); time.sleep(60)"
    secretive = f"from broker.runtime.inside import kernel; kernel.keep_secrets(); {open_one}"
    start = (
        "!global process; process = subprocess.Popen([sys.executable, '-c', {!r}], stdout=subprocess.PIPE, "
        "env={{'SECRET': 'x', 'PYTHONPATH': {!r}}}); process.stdout.readline()"
    )
    package = str(Path(nursery.__file__).parents[2])
    assert other.call(environment, start.format(open_one, package)).ok
    assert "SECRET" in other.result(environment, "open(f'/proc/{process.pid}/environ').read()")
    assert other.call(environment, start.format(secretive, package)).ok
    for name in ("environ", "mem"):
        assert "denied" in other.error(environment, f"open(f'/proc/{{process.pid}}/{name}', 'rb')")["errorMessage"]


def test_folders_that_root_makes_for_a_source_belong_to_whom_functions_run_as(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give folders away")
    os.chown(folder, 65534, 65534)
    make_folder(folder / "in" / "deep")
    assert [(folder / name).stat().st_uid for name in ("in", "in/deep")] == [65534, 65534]
