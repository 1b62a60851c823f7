"""The start screen of `broker up` on a terminal: what runs, where, and what to do next."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios

import pytest

from tests.acceptance.running import COMMAND, Broker

COLUMNS = 160


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """What stands on the terminal once the broker runs, without colours, the broker, and how it ended at Ctrl-C."""
    broker = Broker(tmp_path_factory.mktemp("screen"))
    broker.ship()
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [COMMAND, "up"],
        cwd=broker.root,
        env={**broker.environ, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 -- Ctrl-C is for who has this terminal
    )
    os.close(theirs)
    seen = b""
    while seen.count(b"INFO listening:") < 2:
        seen += os.read(terminal, 4096)
    yield broker, re.sub(r"\x1b\[[0-9;]*m", "", seen.decode())
    os.write(terminal, b"\x03")
    code = process.wait(30)
    os.close(terminal)
    broker.close()
    assert code == 0


def test_it_names_the_configuration_and_redis(screen):
    broker, text = screen
    assert f"broker runs {broker.root / 'config.toml'} with 1 worker" in text
    assert re.search(r"Redis: embedded Valkey [0-9.]+ at \S+redis\.sock", text)


def test_it_names_every_function_and_what_triggers_it(screen):
    broker, text = screen
    for name, function in broker.config.functions.items():
        assert re.search(rf"^ *{name} +{re.escape(function.handler)} +{function.timeout} ", text, re.MULTILINE)
    for trigger in broker.config.triggers:
        assert re.search(rf"^ *{trigger.source} +(every event|{{.*}}) +{trigger.function} *\r?$", text, re.MULTILINE)


def test_it_names_the_folders_the_next_firing_and_the_addresses(screen):
    broker, text = screen
    assert re.search(r"^ *inbox +file +watches inbox/\*\.csv", text, re.MULTILINE)
    assert "moves files to done or failed" in text
    assert "watches images/**/*.jpg" in text
    assert re.search(
        r"^ *nightly +schedule +0 3 \* \* \* \(Europe/Berlin\), next 20\d\d-\d\d-\d\d 03:00 CES?T", text, re.MULTILINE
    )
    assert f"POST http://127.0.0.1:{broker.port}/chat (standard-webhooks signature, wait)" in text
    assert f"GET http://127.0.0.1:{broker.port}/weather/{{city}} (no auth, wait)" in text
    assert "`broker push NAME`" in text


def test_it_says_how_to_follow_the_logs_and_how_to_stop(screen):
    _, text = screen
    assert "broker logs -f follows what functions print; Ctrl-C stops." in text
