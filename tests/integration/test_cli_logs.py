"""`broker logs`: every line that is asked for, in the order of writing, across restarts of Redis."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest
import redis

from broker import logs
from broker.ledger import Ledger
from broker.tail import PAGE, Tail, rank
from tests.conftest import PrivateServer, until
from tests.integration.command import broker, started

TABLES = '[functions.g]\nhandler = "f.py:handler"\n'
NOW = 1_700_000_000_123


def write(client, function, *texts, invocation="a" * 32, level=""):
    lines = [logs.Line(invocation, 1, NOW, level, text) for text in texts]
    Ledger(client).settle("w", [], [(function, entry) for entry in logs.entries(lines)])
    moment = client.time()[1] // 1000
    until(lambda: client.time()[1] // 1000 != moment, every=0)  # a stream's order is that of milliseconds


@pytest.fixture
def project(project):
    project.configure("def handler(event, context): pass\n", TABLES)
    return project


def test_a_pipe_gets_plain_lines_of_all_functions_in_the_order_of_writing(project):
    write(project.client, "f", "one", "zw\x1bei")
    write(project.client, "g", "two", invocation="b" * 32)
    write(project.client, "f", "three")
    assert broker(project.root, "logs").stdout.splitlines() == [
        "2023-11-14T22:13:20.123Z f aaaaaaaa one",
        "2023-11-14T22:13:20.123Z f aaaaaaaa zw\x1bei",
        "2023-11-14T22:13:20.123Z g bbbbbbbb two",
        "2023-11-14T22:13:20.123Z f aaaaaaaa three",
    ]
    assert broker(project.root, "logs", "g").stdout == "2023-11-14T22:13:20.123Z g bbbbbbbb two\n"
    assert broker(project.root, "logs", "h", code=2).stderr.count("there is no function 'h'") == 1


def test_lines_are_chosen_by_pattern_invocation_level_and_age(project):
    write(project.client, "f", "[INFO] fine", level="INFO")
    write(project.client, "f", "[ERROR] broken 17", level="ERROR", invocation="b1" + "0" * 30)
    write(project.client, "f", "broken 18", invocation="b2" + "0" * 30)
    assert texts(project, "--grep", r"broken \d+") == ["[ERROR] broken 17", "broken 18"]
    assert texts(project, "--invocation", "b2") == ["broken 18"]
    assert texts(project, "--level", "warning") == ["[ERROR] broken 17"]
    assert len(texts(project, "--since", "1h")) == 3
    until(lambda: texts(project, "--since", "0.2") == [])
    assert "is no regular expression" in broker(project.root, "logs", "--grep", "(", code=2).stderr


def texts(project, *arguments):
    return [json.loads(line)["text"] for line in broker(project.root, "logs", "--json", *arguments).stdout.splitlines()]


def test_long_streams_are_merged_page_by_page(project):
    for number in range(PAGE + 50):
        write(project.client, "f", f"f{number}")
    for number in range(50):
        write(project.client, "g", f"g{number}")
    tail = Tail(project.client, ["g", "f"])
    found = [line.text for line in tail.written()]
    assert found == [f"f{number}" for number in range(PAGE + 50)] + [f"g{number}" for number in range(50)]
    assert list(tail.written()) == []
    write(project.client, "g", "later")
    assert [line.text for line in tail.wait(1)] == ["later"]


def test_levels_are_ranked_whatever_their_spelling():
    assert [rank(level) for level in ("debug", "Info", "WARN", "WARNING", "error", "FATAL", "", "loud")] == [
        *(1, 2, 3, 3, 4, 5, 0, 0),
    ]


def test_new_lines_are_followed_until_ctrl_c(project):
    write(project.client, "f", "old")
    with started(project.root, "logs", "-f", "f") as command:
        assert command.stdout.readline().endswith(" old\n")
        write(project.client, "g", "another's")
        write(project.client, "f", "new")
        assert command.stdout.readline().endswith(" new\n")
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 130
        assert command.stderr.read().strip() == ""


def test_a_reader_that_has_enough_is_no_fault(project):
    for _ in range(100):
        write(project.client, "f", *["x" * 100] * 100)
    with started(project.root, "logs") as command:
        command.stdout.readline()
        command.stdout.close()
        assert command.stderr.read() == ""


def test_following_survives_a_restart_of_redis(project):
    server = PrivateServer("--appendonly", "yes", "--appendfsync", "always")
    try:
        config = project.root / "config.toml"
        config.write_text(config.read_text().replace(project.url, server.url))
        client = redis.Redis.from_url(server.url)
        write(client, "f", "before")
        with started(project.root, "logs", "-f") as command:
            assert command.stdout.readline().endswith(" before\n")
            server.process.kill()
            server.process.wait()
            server.socket.unlink(missing_ok=True)
            assert "Redis is away, waiting for it" in command.stderr.readline()
            server.process = subprocess.Popen(server.process.args, stdout=subprocess.DEVNULL)
            until(lambda: answers(client))
            write(client, "f", "after")
            assert command.stdout.readline().endswith(" after\n")
            command.send_signal(signal.SIGINT)
        client.close()
    finally:
        server.close()


def answers(client):
    try:
        return client.ping()
    except redis.ConnectionError:
        time.sleep(0.05)
        return False
