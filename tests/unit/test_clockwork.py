"""The clockwork: one thread steps many sources; one that fails holds up no other."""

from __future__ import annotations

import math
import threading
import time
from itertools import pairwise

import pytest

from broker import clockwork
from broker.clockwork import GROUP, Clockwork
from broker.errors import QueueFull, SourceError, StoreUnavailable
from broker.source import Command
from tests.conftest import until


class Counting:
    """Steps every hundredth of a second; `then` is called with the number of the step, and may raise."""

    def __init__(self, then=lambda step: None, rest=0.01):
        self.then = then
        self.rest = rest
        self.started = False
        self.taken = 0
        self.threads = set()

    def start(self):
        yield from ()
        self.started = True
        return 0.0 if self.rest < 1 else self.rest

    def step(self):
        self.threads.add(threading.get_ident())
        self.then(self.taken + 1)
        self.taken += 1
        yield from ()
        return self.rest


@pytest.fixture
def running():
    stopping = threading.Event()
    threads = []

    def run(sources, carry_out=None, **options):
        thread = threading.Thread(target=Clockwork(sources, carry_out, stopping, **options).run)
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


def test_a_clock_that_is_set_has_all_stepped_however_long_they_were_to_rest(running, monkeypatch):
    monkeypatch.setattr(clockwork, "LOOK", 0.01)
    ahead = [0.0]
    sources = [Counting(rest=rest) for rest in (3600.0, math.inf)]
    running({str(one.rest): (lambda one=one: one) for one in sources}, clock=lambda: time.time() + ahead[0])
    until(lambda: all(one.started for one in sources))
    for times, seconds in enumerate((86400.0, -86400.0), 1):
        ahead[0] += seconds
        until(lambda times=times: all(one.taken == times for one in sources))


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


class Asking:
    """Asks for the command `name` in its start, and for `errands` more in each step."""

    def __init__(self, name, errands=1):
        self.name = name
        self.errands = errands
        self.answers = []
        self.taken = 0

    def start(self):
        yield Command(("START", self.name))
        return 0.0

    def step(self):
        for number in range(self.errands):
            self.answers.append((yield Command((self.name, number))))
        self.taken += 1
        return 0.01


def by_name(sources):
    return {one.name: (lambda one=one: one) for one in sources}


def test_what_many_want_at_once_is_carried_out_together(running):
    calls = []

    def carry_out(errands):
        calls.append(len(errands))
        return [errand.words for errand in errands]

    sources = [Asking(str(number)) for number in range(100)]
    running(by_name(sources), carry_out)
    until(lambda: all(one.taken for one in sources))
    assert calls[:2] == [100, 100], "the starts, then the first steps"
    assert all(one.answers[0] == (one.name, 0) for one in sources)


def test_no_step_begins_while_there_is_enough_to_carry_out(running):
    calls = []

    def carry_out(errands):
        calls.append(len(errands))
        return [None] * len(errands)

    sources = [Asking(str(number)) for number in range(GROUP + 100)]
    running(by_name(sources), carry_out)
    until(lambda: all(one.taken for one in sources))
    assert max(calls) == GROUP


def test_an_error_is_raised_where_the_errand_was_yielded_and_nowhere_else(running, caplog):
    full = QueueFull("g", 1)

    def carry_out(errands):
        return [full if errand.words == ("stuck", 0) else None for errand in errands]

    stuck, other = Asking("stuck"), Asking("other")
    running(by_name([stuck, other]), carry_out)
    until(lambda: other.taken >= 10)
    assert stuck.answers == []
    assert f"stuck: {full}; trying again" in caplog.text


def test_a_step_with_many_errands_holds_up_no_other(running):
    class Busy(Asking):
        def step(self):
            while not finish.is_set():
                self.answers.append((yield Command(("more",))))
            self.taken += 1
            return 10.0

    finish = threading.Event()
    busy, other = Busy("busy"), Asking("other")
    running(by_name([busy, other]), lambda errands: [None] * len(errands))
    until(lambda: other.taken >= 5)
    assert busy.answers
    assert not busy.taken
    finish.set()


def test_what_is_under_way_when_it_is_told_to_stop_is_completed():
    stopping = threading.Event()
    one = Asking("one", errands=3)

    def carry_out(errands):
        if errands[0].words == ("one", 0):
            stopping.set()
        return [None] * len(errands)

    Clockwork(by_name([one]), carry_out, stopping).run()
    assert one.taken == 1
    assert len(one.answers) == 3


def test_a_stop_while_redis_is_away_is_heard():
    stopping = threading.Event()

    def carry_out(errands):
        stopping.set()
        return [StoreUnavailable("away")] * len(errands)

    one = Asking("one")
    Clockwork(by_name([one]), carry_out, stopping).run()
    assert not one.taken
