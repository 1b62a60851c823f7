"""Two workers on one Redis, one stands still: it is fenced, and every invocation ends once."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter

import pytest

from tests.acceptance.running import Broker, leased
from tests.chaos.jobs import CONFIG, WORK, numbers
from tests.conftest import until

SLOW = WORK.replace("0.005", "0.05")


@pytest.fixture
def broker(tmp_path):
    broker = Broker(tmp_path)
    yield broker
    broker.close()


def test_a_worker_that_stood_still_beyond_its_lease_is_fenced_and_goes_on(broker):
    broker.configure(CONFIG, work=SLOW)
    broker.start()
    output = broker.root / "second.txt"
    second = broker.start_another("worker", "--name", "sleepy", output=output)
    until(lambda: broker.living_workers() == 2, within=20, what=output.read_text)
    ids = broker.push("jobs", range(400))
    until(lambda: leased(broker.client, "work", "sleepy") and len(numbers(broker.root / "ended")) > 40, within=20)
    os.kill(second.pid, signal.SIGSTOP)
    broker.client.ping()
    held = leased(broker.client, "work", "sleepy")  # asked for after the last word that it can have said
    assert held
    account = broker.all_ended("work", 400, within=30)  # its lease ends after 4 s; the other one runs what it held
    assert (account.accepted, account.finished) == (400, 400)
    assert broker.living_workers() == 1

    os.kill(second.pid, signal.SIGCONT)
    until(
        lambda: "not settled: its lease had passed to another" in output.read_text(), within=20, what=output.read_text
    )
    until(lambda: broker.living_workers() == 2, within=10)
    later = broker.push("jobs", range(400, 440))
    account = broker.all_ended("work", 440, within=20)
    assert (account.accepted, account.finished, account.dead) == (440, 440, 0)
    assert broker.client.zcard("rq:finished:work") == 440
    for id_ in ids + later:
        assert broker.client.hget(f"rq:job:{id_}", "status") == b"finished"
    starts = Counter(numbers(broker.root / "started"))
    assert set(starts) == set(range(440))
    assert sum(count - 1 for count in starts.values()) <= len(held)
    # All that it had begun is refused, and nothing else; what it had claimed without having heard of it, it forgets.
    refused = re.findall(r"(\w+): not settled", output.read_text())
    assert set(refused) <= {id_.decode() if isinstance(id_, bytes) else id_ for id_ in held}
    assert len(set(refused)) == len(refused)
    second.send_signal(signal.SIGTERM)
    assert second.wait(15) == 0
    assert broker.interrupt() == 0
    assert broker.processes() == []
