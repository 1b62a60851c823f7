"""Environments, and the nursery that forks them, are lost under load: what they had not begun, the next ones run."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.acceptance.running import Broker
from tests.chaos.jobs import CONFIG, WORK
from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable

ONE = "[broker]\nenvironments = 1\n"
PATIENT = 'retry = { attempts = 100, backoff = "fixed", base = "10ms" }\n'

DEADLY = """
import os

def handler(event, context):
    if event["data"] % 500 == 250 and context.attempt == 1:
        os._exit(3)
"""


@pytest.fixture
def broker(tmp_path):
    broker = Broker(tmp_path)
    yield broker
    broker.close()


def test_what_was_sent_ahead_to_the_only_environment_outlives_its_crash(broker):
    broker.configure(ONE + CONFIG.replace("[[triggers]]", f"{PATIENT}[[triggers]]"), work=DEADLY)
    broker.start()
    ids = broker.push("jobs", range(5_000))
    account = broker.all_ended("work", 5_000, within=30)
    assert (account.accepted, account.finished, account.dead) == (5_000, 5_000, 0)
    attempts = [int(broker.client.hget(f"rq:job:{id_}", "attempt")) for id_ in ids]
    assert {number for number, count in enumerate(attempts) if count > 1} == set(range(250, 5_000, 500))
    assert broker.interrupt() == 0


def test_a_worker_whose_nursery_is_killed_again_and_again_goes_on(broker):
    broker.configure(CONFIG.replace("[[triggers]]", f"{PATIENT}[[triggers]]"), work=WORK)
    broker.start()
    broker.push("jobs", range(1_000))
    for finished in (100, 300, 500):
        until(_more_than(broker, finished), within=20, every=0.02)
        _nursery(broker).kill()
    account = broker.all_ended("work", 1_000, within=30)
    assert (account.accepted, account.finished, account.dead) == (1_000, 1_000, 0)
    assert broker.interrupt() == 0
    assert broker.processes() == []


def _more_than(broker: Broker, finished: int) -> Callable[[], bool]:
    return lambda: broker.account("work").finished > finished


def _nursery(broker: Broker) -> psutil.Process:
    for process in broker.processes():
        with suppress(psutil.NoSuchProcess):
            if "worker" in process.cmdline():
                return process.children()[0]
    pytest.fail("there is no worker")
