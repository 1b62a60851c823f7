"""A Redis that refuses us: said once, with what to do, when broker starts; waited out when broker runs."""

from __future__ import annotations

import subprocess
import traceback
from typing import TYPE_CHECKING

import pytest
import redis

from broker import config as configuration
from broker.errors import StoreRefused
from broker.store import connection as store
from tests.conftest import PrivateServer, until
from tests.integration.command import broker, started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLES = """
[functions.f]
handler = "f.py:handler"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    server = PrivateServer("--requirepass", "right")
    with redis.Redis(unix_socket_path=str(server.socket), password="right") as client:
        client.acl_setuser("reader", enabled=True, passwords=["+p"], keys=["*"], categories=["+@connection", "+@read"])
        client.acl_setuser("stranger", enabled=True, passwords=["+p"], keys=["other:*"], categories=["+@all"])
    yield server
    server.close()


def project(root: Path, url: str) -> Path:
    (root / "f.py").write_text("def handler(event, context): return 'ran'\n")
    (root / "config.toml").write_text(f'[broker]\nredis = "{url}"\n{TABLES}')
    return root


@pytest.mark.parametrize(
    ("login", "rest", "said"),
    [
        (":hunter2@", "", r"refuses us: invalid username-password pair or user is disabled \(expected unix://"),
        ("nobody:hunter2@", "", r"refuses us: invalid username-password pair or user is disabled \(expected unix://"),
        ("", "", r"refuses us: Authentication required \(expected unix://"),
        (":right@", "?db=99", r"has no such database: DB index is out of range \(expected unix://.*db=DB"),
        ("reader:p@", "", r"refuses us: .*'eval' command \(its user needs scripts"),
        ("stranger:p@", "", r"refuses us: .*key.* \(its user needs scripts"),
    ],
)
def test_a_service_that_is_refused_says_where_and_what_to_do_and_does_not_wait(tmp_path, server, login, rest, said):
    root = project(tmp_path, f"unix://{login}{server.socket}{rest}")
    with pytest.raises(StoreRefused, match=f"{root}/config.toml: broker.redis: Redis at .*{said}") as refusal:
        store.connect(configuration.load(root / "config.toml"), wait=True)
    assert "hunter2" not in "".join(traceback.format_exception(refusal.value))


def test_commands_end_with_the_exit_code_of_a_wrong_configuration(tmp_path, server):
    root = project(tmp_path, f"unix://:wrong@{server.socket}")
    for command in ("up", "host", "worker", "status", "check"):
        done = broker(root, command, code=2)
        assert done.stderr.count("refuses us") == 1
        assert "Traceback" not in done.stderr


def test_what_the_user_may_not_do_is_told_by_check(tmp_path, server):
    root = project(tmp_path, f"unix://reader:p@{server.socket}")
    assert "its user needs scripts, all channels" in broker(root, "check").stderr


def test_a_server_that_is_away_is_waited_for_and_one_that_comes_and_refuses_ends_all(tmp_path, server):
    root = project(tmp_path, f"unix://:wrong@{tmp_path}/s")
    up = started(root, "up")
    try:
        said = ""
        while "host | WARNING waiting for Redis" not in said or "worker-1 | WARNING waiting for Redis" not in said:
            said += up.stderr.readline()
        assert up.poll() is None
        (tmp_path / "s").symlink_to(server.socket)
        out, err = up.communicate(timeout=30)
        assert up.returncode == 2, f"{out}\n{err}"
        assert "it cannot run with this configuration" in err
        assert "starting it again" not in err
    finally:
        end(up)


def test_a_password_that_is_changed_while_all_runs_is_waited_for(tmp_path):
    server = PrivateServer("--requirepass", "right")
    admin = redis.Redis(unix_socket_path=str(server.socket), password="right")
    root = project(tmp_path, f"unix://:right@{server.socket}")
    up = started(root, "up")
    try:
        until(lambda: admin.zcard("broker:workers"), within=30, what="the worker is there")
        admin.config_set("requirepass", "other")
        admin.client_kill_filter(_type="normal", skipme=True)
        admin.client_kill_filter(_type="pubsub", skipme=True)
        line = ""
        while "invalid username-password pair" not in line:
            line = up.stderr.readline()
        assert line.startswith("worker-1 | WARNING"), line
        admin.config_set("requirepass", "right")
        assert "ran" in broker(root, "invoke", "f").stdout
        assert up.poll() is None
    finally:
        end(up)
        admin.close()
        server.close()


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
