"""The clockwork: one thread steps many sources; one that fails holds up no other."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest

from broker.clockwork import Clockwork
from broker.errors import QueueFull, SourceError, StoreUnavailable
from tests.conftest import until


class Counting:
    """Steps every hundredth of a second; `then` is called with the number of the step, and may raise."""

    def __init__(self, then=lambda step: None):
        self.then = then
        self.taken = 0
        self.threads = set()

    def start(self):
        return 0.0

    def step(self):
        self.threads.add(threading.get_ident())
        self.then(self.taken + 1)
        self.taken += 1
        return 0.01


@pytest.fixture
def running():
    stopping = threading.Event()
    threads = []

    def run(sources):
        thread = threading.Thread(target=Clockwork(sources, stopping).run)
        thread.start()
        threads.append(thread)

    yield run
    stopping.set()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_one_thread_steps_all_sources(running):
    sources = [Counting() for _ in range(50)]
    running({str(number): (lambda one=one: one) for number, one in enumerate(sources)})
    until(lambda: all(one.taken >= 3 for one in sources))
    assert len(set().union(*(one.threads for one in sources))) == 1


def test_a_step_that_met_a_full_queue_is_repeated_and_holds_up_no_other(running):
    full = threading.Event()
    full.set()

    def then(step):
        if full.is_set():
            raise QueueFull("g", 1)

    stuck, other = Counting(then), Counting()
    made = []
    running({"stuck": lambda: made.append(1) or stuck, "other": lambda: other})
    until(lambda: other.taken >= 20)
    assert stuck.taken == 0
    full.clear()
    until(lambda: stuck.taken >= 2)
    assert made == [1], "it goes on as it was"


@pytest.mark.parametrize("error", [SourceError("no"), ZeroDivisionError()])
def test_a_source_that_dies_begins_anew_and_holds_up_no_other(running, error, caplog):
    def die(step):
        raise error

    other, made = Counting(), []

    def make():
        made.append(Counting(die if len(made) < 2 else lambda step: None))
        return made[-1]

    running({"dying": make, "other": lambda: other})
    until(lambda: len(made) == 3 and made[2].taken >= 2)
    assert other.taken > 5
    waits = [float(word) for record in caplog.records for word in record.getMessage().split() if word[:1].isdigit()]
    assert all(first < second for first, second in pairwise(waits)), "it waits longer each time"


def test_one_line_tells_that_redis_is_away_for_all_of_them(running, caplog):
    away = threading.Event()
    away.set()

    def then(step):
        if away.is_set():
            raise StoreUnavailable("away")

    sources = [Counting(then) for _ in range(50)]
    running({str(number): (lambda one=one: one) for number, one in enumerate(sources)})
    until(lambda: "away" in caplog.text)
    assert caplog.text.count("away; trying again") < 10
    away.clear()
    until(lambda: all(one.taken for one in sources))
