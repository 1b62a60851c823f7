"""How many environments a function should have, as far as it is up to the function."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from broker.function import Function
from broker.quantity import Size
from broker.runtime import crew as crew_module
from broker.runtime.crew import GROW_AFTER, LONGEST_HOLD, Crew
from broker.runtime.room import Room, of_this_machine


def crew(places=0, starting=0, **options):
    made = Crew(Function(name="f", handler="f.py:handler", **options))
    for number in range(places):
        init_ms = None if number < starting else 1.0
        made.open.append(SimpleNamespace(init_ms=init_ms, attempts={}, idle_since=None, retired=False))
    return made


def test_the_first_environment_is_due_at_once():
    assert crew().is_due_another(100.0)


def test_another_is_due_when_all_have_been_full_for_long_enough():
    one = crew(places=3)
    assert not one.is_due_another(100.0)
    one.full_since = 100.0
    assert not one.is_due_another(100.0 + 2.9 * GROW_AFTER)
    assert one.is_due_another(100.0 + 3.1 * GROW_AFTER)


def test_they_start_one_at_a_time():
    one = crew(places=2, starting=1)
    one.full_since = 0.0
    assert not one.is_due_another(100.0)


@pytest.mark.parametrize("options", [{"max": 2}, {"concurrency": 2}, {"max": 2, "concurrency": 9}])
def test_there_are_never_more_than_max_and_concurrency(options):
    one = crew(places=2, **options)
    one.full_since = 0.0
    assert not one.is_due_another(100.0)


def test_a_function_that_computes_gets_no_more_than_there_are_cores(monkeypatch):
    monkeypatch.setattr(crew_module, "CORES", 2)
    computing, waiting = crew(), crew()
    for _ in range(50):
        computing.learn(0.1, 0.09)
        waiting.learn(0.1, 0.001)
    assert computing.most == 2
    assert waiting.most > 100


def test_environments_that_die_in_init_are_started_ever_more_seldom():
    one, now, waits = crew(), 0.0, []
    for _ in range(12):
        one.init_failed(now)
        waits.append(one.hold_until - now)
        assert not one.is_due_another(one.hold_until - 0.01)
        assert one.is_due_another(one.hold_until)
        now = one.hold_until
    assert waits == sorted(waits)
    assert waits[0] == 0.5
    assert waits[-1] == LONGEST_HOLD
    one.init_succeeded()
    one.init_failed(now)
    assert one.hold_until - now == waits[0]


def test_what_is_kept_warm_cannot_be_spared():
    one = crew(places=2, min=2)
    one.open[0].idle_since = 1.0
    assert not one.can_spare(one.open[0])
    assert not one.lacks()
    one.open.pop()
    assert one.lacks()


def test_there_is_room_for_as_many_as_were_told_and_always_for_one():
    room = Room(2, None, machine=lambda: None)
    assert room.fits(1, Size(1 << 40))
    assert not room.fits(2, Size(1))
    room = Room(9, 100, machine=lambda: None)
    assert room.look(1.0, lambda: [90, 20])
    assert room.fits(0, 1000)
    assert not room.fits(2, 1)


def test_what_was_started_since_the_last_look_counts():
    room = Room(9, 100, machine=lambda: None)
    assert not room.look(1.0, lambda: [40])
    assert room.fits(1, 60)
    room.take(60)
    assert not room.fits(2, 1)
    assert not room.look(1.5, lambda: [1000])  # too early to look again
    assert not room.look(2.0, lambda: [40, 10])
    assert room.fits(2, 50)


def test_five_percent_of_the_machine_are_left_alone():
    room = Room(9, None, machine=lambda: (60, 1000))
    assert not room.look(1.0, list)
    assert room.fits(1, 10)
    assert not room.fits(1, 11)
    room = Room(9, None, machine=lambda: (40, 1000))
    assert room.look(1.0, list)


def test_this_machine_has_memory():
    found = of_this_machine()
    if found is not None:  # a system without /proc
        available, total = found
        assert 0 < available <= total
