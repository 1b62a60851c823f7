"""Many schedules in one host: killed between publishing and the cursors, they neither lose nor repeat a tick."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from broker.host import Host
from broker.ledger.jobs import event_of
from tests.conftest import until

COUNT = 100

KILLED_AFTER_PUBLISHING = """
import os, signal, sys
from broker import config, host
from broker.errands import Errands
from broker.source import Command, Publish
from broker.store import connection

class Killed(Errands):
    def _command(self, errands, answers):
        if any(one.words[0] == "EVAL" for one in errands.values()):
            os.kill(os.getpid(), signal.SIGKILL)
        super()._command(errands, answers)

host.Errands = Killed
host.main(config.load(sys.argv[1]))
"""


@pytest.fixture
def schedules(project):
    tables = [
        f'[sources.s{n}]\nkind = "schedule"\nevery = "500ms"\nmissed = "all"\n'
        f'[[triggers]]\nsource = "s{n}"\nfunction = "f"\n'
        for n in range(COUNT)
    ]
    project.configure("def handler(event, context): return 1\n", "".join(tables))
    return project


def dues(client):
    """Source -> the due times of what it has published, as often as an invocation is owed."""
    found = defaultdict(list)
    for id in client.lrange("rq:queue:f", 0, -1):
        event = json.loads(event_of(client.hget(b"rq:job:" + id, "data"), "f"))
        found[event["source"]].append(datetime.fromisoformat(event["id"]))
    return found


def test_kill_9_between_publishing_and_the_cursors_neither_loses_nor_repeats(schedules):
    client = schedules.client
    command = [sys.executable, "-c", KILLED_AFTER_PUBLISHING, str(schedules.root / "config.toml")]
    root = Path(__file__).parents[2]
    for _ in range(2):
        ended = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, timeout=60, check=False)
        assert ended.returncode == -signal.SIGKILL
    killed = dues(client)
    assert killed
    for source, (first, *_) in killed.items():
        assert datetime.fromisoformat(client.hget(f"broker:source:{source}:cursor", "due").decode()) < first
    host = Host(schedules.config, client)
    thread = threading.Thread(target=host.run)
    thread.start()
    try:
        until(lambda: client.llen("rq:queue:f") >= 3 * COUNT + sum(map(len, killed.values())), within=30)
    finally:
        host.stopping.set()
        thread.join(10)
    assert not thread.is_alive()
    found = dues(client)
    assert len(found) == COUNT
    for source, times in found.items():
        assert times[: len(killed[source])] == killed[source]
        assert all(later - earlier == timedelta(milliseconds=500) for earlier, later in pairwise(sorted(times)))
        assert datetime.fromisoformat(client.hget(f"broker:source:{source}:cursor", "due").decode()) == max(times)
