"""`broker logs --follow` shows a line while the function that printed it still runs, and is told of it by Redis.

How long a line takes is measured by `python -m bench --only logs`.
"""

from __future__ import annotations

import subprocess
import threading

import pytest

from tests.acceptance.running import COMMAND, Broker
from tests.conftest import until

CONFIG = """
[broker]
workers = 1

[sources.jobs]
kind = "queue"

[functions.tell]
handler = "tell.py:handler"
payload = "data"

[[triggers]]
source = "jobs"
function = "tell"
"""

# It ends only when the test has seen its line.
TELL = """
import pathlib
import time

def handler(name, context):
    print(f"this is {name}", flush=True)
    while not pathlib.Path(f"seen-{name}").exists():
        time.sleep(0.01)
"""


@pytest.fixture
def broker(tmp_path):
    broker = Broker(tmp_path)
    broker.configure(CONFIG, tell=TELL)
    yield broker
    broker.close()


def test_a_line_is_seen_while_its_function_runs_by_a_follower_that_waits_in_redis(broker):
    broker.start()
    follower = subprocess.Popen(
        [COMMAND, "logs", "--follow", "tell"],
        cwd=broker.root,
        env={**broker.environ, "PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=_read, args=[follower, lines], daemon=True)
    reader.start()
    try:
        for name in ("one", "two", "three"):
            until(lambda: _waits_in_redis(broker), what="the follower waits in Redis")
            broker.push("jobs", [name])
            until(lambda: any(f"this is {name}" in line for line in lines), what=lambda: str(lines))  # noqa: B023
            assert not any("END RequestId" in line for line in lines[-2:]), "it still runs"
            (broker.root / f"seen-{name}").touch()
            until(lambda: "REPORT RequestId" in lines[-1], what=lambda: str(lines))
    finally:
        follower.terminate()
        reader.join(10)
        follower.wait(30)
        follower.stdout.close()


def _waits_in_redis(broker: Broker) -> bool:
    """Whether a client is blocked in XREAD: it has the next line when it is written, and asks for none before."""
    return any(one["cmd"] == "xread" and "b" in one["flags"] for one in broker.client.client_list())


def _read(follower: subprocess.Popen[str], lines: list[str]) -> None:
    for line in follower.stdout:
        lines.append(line)  # noqa: PERF402 -- one after another, as they come
