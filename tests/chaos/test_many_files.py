"""Ten thousand files at once: an invocation for each and not one more, whether the broker runs or not meanwhile."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from tests.acceptance.running import Broker

FILES = 10_000

CONFIG = """
[sources.inbox]
kind = "file"
path = "inbox"
scan = "1s"

[functions.count]
handler = "count.py:handler"
batch = { size = 500, window = "100ms" }

[[triggers]]
source = "inbox"
function = "count"
"""

COUNT = """
def handler(events, context):
    with open("seen", "a") as seen:
        seen.writelines(f"{event['type']} {event['data']['name']}\\n" for event in events)
"""


@pytest.fixture
def broker():
    """In memory where that can be had: what is measured is the broker, not the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="broker-files-", dir=memory if memory.is_dir() else None) as folder:
        broker = Broker(Path(folder))
        broker.configure(CONFIG, count=COUNT)
        yield broker
        broker.close()


def test_ten_thousand_files_are_ten_thousand_invocations_running_or_stopped(broker):
    broker.start()
    began = time.monotonic()
    names = _copy_in(broker, "running")
    broker.all_ended("count", FILES, within=40)
    print(f"while it runs: {time.monotonic() - began:.1f} s")  # `pytest -rP` shows it
    assert _seen(broker) == sorted(f"file.created {name}" for name in names)
    assert broker.interrupt() == 0

    names += _copy_in(broker, "stopped")
    began = time.monotonic()
    broker.start()
    broker.all_ended("count", 2 * FILES, within=40)
    print(f"after a start: {time.monotonic() - began:.1f} s")
    # No hint tells of a new time alone, so this one is found by a scan that began after the first one was through.
    os.utime(broker.root / "inbox" / names[0])
    account = broker.all_ended("count", 2 * FILES + 1, within=40)
    assert (account.accepted, account.finished) == (2 * FILES + 1, 2 * FILES + 1)
    assert _seen(broker) == sorted([f"file.modified {names[0]}", *(f"file.created {name}" for name in names)])
    assert broker.interrupt() == 0
    assert broker.processes() == []


def _copy_in(broker: Broker, prefix: str) -> list[str]:
    template = broker.root / "template"
    template.write_text("city,day,temperature\n")
    names = [f"{prefix}-{number:05}.csv" for number in range(FILES)]
    for name in names:
        shutil.copyfile(template, broker.root / "inbox" / name)
    return names


def _seen(broker: Broker) -> list[str]:
    """Return what the function was called with: type and file of each event."""
    return sorted((broker.root / "seen").read_text().splitlines())
