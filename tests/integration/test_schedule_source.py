"""The schedule source over a real Redis: restarts, missed runs, overlaps, clocks that are set, kill -9.

Time passes only while the source waits (`Simulated`), so hours take milliseconds and nothing depends on the machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.clockwork import LOOK
from broker.errors import StoreUnavailable
from broker.quantity import Duration
from sources._schedule.ticker import Ticker
from sources.schedule import Schedule
from tests.conftest import until
from tests.source_context import RealContext, alone, running

START = datetime(2026, 11, 23, 12, 0, 0, 500_000, tzinfo=UTC)
EVERY_10S = Schedule(every=Duration(10))


class Simulated:
    """A clock, and a `stopping` flag that is set when its time is over; waiting for the flag moves the clock."""

    def __init__(self, now, seconds):
        self.now = now
        self.passed, self.length = timedelta(0), timedelta(seconds=seconds)
        self.happenings = []

    def __call__(self):
        return self.now

    def after(self, seconds, action):
        """Let something happen that many seconds from the beginning."""
        self.happenings.append((timedelta(seconds=seconds), action))
        self.happenings.sort(key=lambda happening: happening[0])

    def jump(self, seconds):
        """Set the clock, as an administrator would; the time that has passed is not changed."""
        self.now += timedelta(seconds=seconds)

    def is_set(self):
        return self.passed >= self.length

    def wait(self, timeout):
        end = min(self.passed + timedelta(seconds=timeout), self.length)
        while self.happenings and self.happenings[0][0] <= end:
            moment, action = self.happenings.pop(0)
            self._pass(max(moment, self.passed))
            action()
        self._pass(end)
        return self.is_set()

    def _pass(self, moment):
        self.now += moment - self.passed
        self.passed = moment


@pytest.fixture
def context(redis_client, tmp_path):
    return RealContext(redis_client, tmp_path, name="nightly")


def live(schedule, context, now, seconds, prepare=None):
    """Run the source for that long from `now` on; return the end."""
    time = Simulated(now, seconds)
    context.stopping = time
    if prepare:
        prepare(time)
    steps = Ticker(schedule, context, time)
    rest = alone(steps.start(), context)
    while not rests(time, rest):
        rest = alone(steps.step(), context)
    return now + time.length


def rests(time, seconds):
    """Let time pass until a step is due, or the clock was set, as the clockwork does; return whether it is over."""
    offset, end = time.now - time.passed, time.passed + timedelta(seconds=min(seconds, 1e6))
    while time.passed < end and time.now - time.passed == offset and not time.is_set():
        time.wait(min(LOOK, (end - time.passed).total_seconds()))
    return time.is_set()


def at(text):
    return datetime.fromisoformat(f"2026-11-23T{text}+00:00")


def times(context):
    """The due times of all that was published, `12:00:10`."""
    return [record["id"][11:19] for record in context.records()]


def data(context):
    return [record["data"] for record in context.records()]


def test_a_tick_is_an_event_of_its_due_time(context):
    live(Schedule(cron="0 3 * * *", timezone="Europe/Berlin"), context, at("00:00:00"), 3 * 3600)
    assert context.records() == [
        {
            "specversion": "1.0",
            "id": "2026-11-23T02:00:00Z",
            "source": "nightly",
            "type": "schedule.tick",
            "subject": "0 3 * * *",
            "time": "2026-11-23T02:00:00.000000Z",
            "data": {
                "due": "2026-11-23T02:00:00Z",
                "local": "2026-11-23T03:00:00+01:00",
                "timezone": "Europe/Berlin",
                "missed": False,
                "late_seconds": 0.0,
            },
        }
    ]


def test_the_first_start_begins_now_and_ticks_are_aligned_to_the_interval(context):
    live(EVERY_10S, context, START, 40)
    assert times(context) == ["12:00:10", "12:00:20", "12:00:30", "12:00:40"]


def test_a_restart_neither_loses_nor_repeats_a_tick(context):
    now = START
    for seconds in (3, 10, 0.1, 27, 9.4, 10.6):
        now = live(EVERY_10S, context, now, seconds)
    assert times(context) == ["12:00:10", "12:00:20", "12:00:30", "12:00:40", "12:00:50", "12:01:00"]
    assert sum(context.calls) == 6


@pytest.mark.parametrize(
    ("missed", "made_up"),
    [("skip", []), ("once", ["12:01:00"]), ("all", ["12:00:20", "12:00:30", "12:00:40", "12:00:50", "12:01:00"])],
)
def test_what_was_due_while_nothing_ran_is_made_up_for_as_told(context, missed, made_up):
    schedule = Schedule(every=Duration(10), missed=missed)
    live(schedule, context, START, 10)
    live(schedule, context, at("12:01:04"), 10)
    assert times(context) == ["12:00:10", *made_up, "12:01:10"]
    assert [tick["missed"] for tick in data(context)] == [False, *[True] * len(made_up), False]
    assert [tick["late_seconds"] for tick in data(context)][len(made_up)] == (4.0 if made_up else 0.0)
    live(schedule, context, at("12:01:14"), 2)
    assert times(context)[-1] == "12:01:10"


def test_what_was_due_before_the_first_tick_is_made_up_for_too(context):
    nightly = Schedule(cron="0 13 * * *")
    live(nightly, context, START, 1)
    live(nightly, context, at("13:30:00"), 1)
    assert times(context) == ["13:00:00"]


@pytest.mark.parametrize("missed", ["once", "all"])
def test_what_was_missed_before_the_catch_up_window_is_not_run_but_told(context, caplog, missed):
    schedule = Schedule(every=Duration(600), missed=missed, catch_up=Duration(1600))
    live(schedule, context, START, 1)
    live(schedule, context, at("18:05:00"), 1)
    assert times(context) == (["18:00:00"] if missed == "once" else ["17:40:00", "17:50:00", "18:00:00"])
    assert "from 2026-11-23T12:10:00Z to 2026-11-23T17:30:00Z: not run" in caplog.text


def test_a_million_missed_ticks_are_made_up_for_by_one_without_counting_them(context):
    schedule = Schedule(every=Duration(0.1), catch_up=Duration(86400))
    live(schedule, context, at("00:00:00"), 0.05)
    live(schedule, context, at("20:00:00"), 0.05)
    assert times(context) == ["20:00:00"]


def test_many_missed_ticks_are_published_together(context):
    schedule = Schedule(every=Duration(1), missed="all")
    live(schedule, context, at("12:00:00"), 0.5)
    live(schedule, context, at("12:20:00"), 0.5)
    assert context.calls == [500, 500, 200]
    assert len(set(times(context))) == 1200


def test_a_changed_schedule_begins_anew(context):
    live(Schedule(cron="0 3 * * *"), context, START, 1)
    later = at("18:00:30")
    live(EVERY_10S, context, later, 5)
    assert times(context) == []
    live(EVERY_10S, context, later + timedelta(seconds=5), 6)
    assert times(context) == ["18:00:40"]


def test_a_single_time_runs_once(context):
    once = Schedule(at="2026-11-23T12:00:20")
    live(once, context, START, 60)
    live(once, context, at("12:05:00"), 60)
    assert times(context) == ["12:00:20"]


def test_a_single_time_that_passed_while_nothing_ran_is_made_up_for(context):
    once = Schedule(at="2026-11-23T12:00:20")
    live(once, context, START, 5)
    live(once, context, at("12:05:00"), 60)
    assert times(context) == ["12:00:20"]


def test_a_single_time_that_had_passed_before_the_first_start_does_not_run(context):
    live(Schedule(at="2026-11-23T11:00:00"), context, START, 60)
    assert times(context) == []


def test_jitter_moves_the_publishing_but_not_the_due_time(context):
    schedule = Schedule(every=Duration(10), jitter=Duration(9))
    published = []
    context.on_publish = lambda events: published.append((context.stopping() - at("12:00:00")).total_seconds())
    live(schedule, context, START, 59)
    assert times(context) == ["12:00:10", "12:00:20", "12:00:30", "12:00:40", "12:00:50"]
    delays = [moment - 10 * number for number, moment in enumerate(published, 1)]
    assert all(0 <= delay <= 9 for delay in delays)
    assert len({round(delay, 3) for delay in delays}) == len(delays)
    assert {tick["late_seconds"] for tick in data(context)} == {0.0}


def test_a_jittered_tick_whose_time_comes_during_a_restart_is_neither_lost_nor_early(context):
    schedule = Schedule(every=Duration(10), jitter=Duration(9), missed="skip")
    moments = []
    context.on_publish = lambda events: moments.append(context.stopping())
    now = START
    for _ in range(80):
        now = live(schedule, context, now, 0.75)
    assert times(context) == ["12:00:10", "12:00:20", "12:00:30", "12:00:40", "12:00:50"]
    assert all(moment.strftime("%H:%M:%S") >= due for moment, due in zip(moments, times(context), strict=True))


def test_a_second_host_that_comes_later_repeats_nothing(context, redis_client, tmp_path):
    live(EVERY_10S, context, START, 60)
    second = RealContext(redis_client, tmp_path, name="nightly")
    live(EVERY_10S, second, at("12:00:55"), 20)
    assert times(context)[-2:] == ["12:01:00", "12:01:10"]
    assert second.calls == [1]


def test_two_hosts_at_once_run_every_tick_once(redis_client, tmp_path):
    contexts = [RealContext(redis_client, tmp_path, name="nightly") for _ in range(2)]
    schedule = Schedule(every=Duration(0.1))
    with running(schedule, contexts[0]), running(schedule, contexts[1]):
        until(lambda: contexts[0].count() >= 5)
    dues = [datetime.fromisoformat(record["id"]) for record in contexts[0].records()]
    assert [(due - dues[0]) / timedelta(milliseconds=100) for due in dues] == list(range(len(dues)))


KILLED_AFTER_PUBLISHING = """
import os, signal, sys
from pathlib import Path
from redis import Redis
from broker.quantity import Duration
from sources.schedule import Schedule
from tests.source_context import RealContext, run_in_host

class Killed(RealContext):
    def publish(self, events, how):
        super().publish(events, how)
        os.kill(os.getpid(), signal.SIGKILL)

run_in_host(
    Schedule(every=Duration(0.2), missed="all"), Killed(Redis.from_url(sys.argv[1]), Path(), name="nightly")
)
"""


def test_kill_9_between_publishing_and_the_cursor_neither_loses_nor_repeats(context, redis_server):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED_AFTER_PUBLISHING, redis_server.url]
    killed = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, timeout=30, check=False)
    assert killed.returncode == -signal.SIGKILL
    [first] = context.records()
    cursor = datetime.fromisoformat(context.redis.hget("broker:source:nightly:cursor", "due").decode())
    assert cursor < datetime.fromisoformat(first["id"])
    with running(Schedule(every=Duration(0.2), missed="all"), context):
        until(lambda: context.count() >= 4)
    assert sum(context.calls) == context.count()  # the first was published again, and refused
    dues = [datetime.fromisoformat(record["id"]) for record in context.records()]
    assert [(due - dues[0]) / timedelta(milliseconds=200) for due in dues] == list(range(len(dues)))


def test_overlapping_runs_are_allowed_and_not_tracked_by_default(context):
    live(EVERY_10S, context, START, 30)
    assert len(times(context)) == 3
    assert context.open() == 0


def test_a_tick_whose_predecessor_still_runs_is_skipped_and_told(context, caplog):
    schedule = Schedule(every=Duration(10), overlap="skip")
    live(schedule, context, START, 40, lambda time: time.after(25, lambda: context.end("2026-11-23T12:00:10Z")))
    assert times(context) == ["12:00:10", "12:00:30"]
    assert "the run due at 2026-11-23T12:00:20Z is skipped" in caplog.text
    assert "the run due at 2026-11-23T12:00:40Z is skipped" in caplog.text
    # The cursor has passed the skipped ones: after a restart they are not missed runs.
    context.end("2026-11-23T12:00:30Z")
    live(schedule, context, at("12:00:45"), 3)
    assert times(context) == ["12:00:10", "12:00:30"]


def test_a_run_that_ended_is_forgotten_by_the_source(context):
    schedule = Schedule(every=Duration(10), overlap="skip")
    live(
        schedule, context, START, 20, lambda time: time.after(12, lambda: context.end("2026-11-23T12:00:10Z", failed=1))
    )
    assert context.redis.llen("broker:ended:nightly") == 0


def test_what_has_ended_is_asked_for_when_a_tick_is_due_and_not_before(context, monkeypatch):
    asked = []
    monkeypatch.setattr(context, "ended", lambda: iter(asked.append(times(context)) or ()))
    live(Schedule(every=Duration(60), overlap="skip"), context, START, 130)
    assert asked == [[], ["12:01:00"]]


def test_queued_ticks_run_one_after_the_other_in_order(context):
    schedule = Schedule(every=Duration(10), overlap="queue")

    def prepare(time):
        time.after(35, lambda: context.end("2026-11-23T12:00:10Z"))
        time.after(36, lambda: (seen.append(times(context)), context.end("2026-11-23T12:00:20Z")))
        time.after(37, lambda: (seen.append(times(context)), context.end("2026-11-23T12:00:30Z")))

    seen = []
    live(schedule, context, START, 38, prepare)
    assert seen == [["12:00:10", "12:00:20"], ["12:00:10", "12:00:20", "12:00:30"]]
    assert times(context) == ["12:00:10", "12:00:20", "12:00:30"]
    live(schedule, context, at("12:00:38.5"), 3)
    assert times(context) == ["12:00:10", "12:00:20", "12:00:30", "12:00:40"]
    assert {how.track for _, how in context.published} == {True}


def test_queued_ticks_survive_a_restart_whatever_is_done_about_missed_ones(context):
    schedule = Schedule(every=Duration(10), overlap="queue", missed="skip")
    live(schedule, context, START, 35)  # 12:00:10 runs, 12:00:20 and 12:00:30 wait

    def prepare(time):
        for number, due in enumerate(["12:00:10", "12:00:20", "12:00:30"], 1):
            time.after(number, lambda due=due: context.end(f"2026-11-23T{due}Z"))

    live(schedule, context, at("13:00:02"), 5, prepare)
    assert times(context) == ["12:00:10", "12:00:20", "12:00:30"]
    assert [tick["missed"] for tick in data(context)] == [False, False, False]


def test_missed_ticks_join_the_queue(context):
    schedule = Schedule(every=Duration(10), overlap="queue", missed="all")
    live(schedule, context, START, 1)
    context.matching = False  # nothing is owed for them, so each has ended at once
    live(schedule, context, at("12:00:32"), 1)
    assert times(context) == ["12:00:10", "12:00:20", "12:00:30"]
    assert [tick["missed"] for tick in data(context)] == [True, True, True]


def test_a_tick_that_waits_is_published_when_queueing_is_given_up(context):
    live(Schedule(every=Duration(10), overlap="queue"), context, START, 25)
    live(EVERY_10S, context, at("12:00:26"), 1)
    assert times(context) == ["12:00:10", "12:00:20"]


def test_a_growing_queue_is_told(context, caplog):
    live(Schedule(every=Duration(10), overlap="queue"), context, START, 60)
    assert "2 runs wait for their turn" in caplog.text
    assert "4 runs wait for their turn" in caplog.text
    assert "3 runs wait for their turn" not in caplog.text


def test_a_clock_that_is_set_back_repeats_nothing_and_goes_on_where_it_was(context, caplog):
    live(EVERY_10S, context, START, 80, lambda time: time.after(25, lambda: time.jump(-30)))
    assert times(context) == ["12:00:10", "12:00:20", "12:00:30", "12:00:40", "12:00:50"]
    assert sum(context.calls) == 5
    assert "the clock went back to 2026-11-23T11:59:5" in caplog.text


def test_a_clock_that_is_set_back_while_nothing_runs_repeats_nothing(context, caplog):
    live(EVERY_10S, context, START, 30)
    live(EVERY_10S, context, at("12:00:05"), 40)
    assert "the clock went back to 2026-11-23T12:00:05Z" in caplog.text
    assert times(context) == ["12:00:10", "12:00:20", "12:00:30", "12:00:40"]


@pytest.mark.parametrize(("missed", "made_up"), [("skip", 0), ("once", 1), ("all", 360)])
def test_a_clock_that_is_set_forward_passes_over_missed_ticks_within_seconds(context, missed, made_up):
    schedule = Schedule(every=Duration(10), missed=missed)
    live(schedule, context, START, 30, lambda time: time.after(12, lambda: time.jump(3600)))
    assert times(context)[0] == "12:00:10"
    assert times(context)[-1] == "13:00:30"
    assert sum(tick["missed"] for tick in data(context)) == made_up
    assert len(times(context)) in {made_up + 2, made_up + 3}


def test_a_nightly_run_is_noticed_within_seconds_of_a_clock_set_forward_beyond_it(context):
    moments = []
    context.on_publish = lambda events: moments.append(context.stopping.passed)
    live(Schedule(cron="0 3 * * *"), context, at("02:00:00"), 60, lambda time: time.after(17, lambda: time.jump(7200)))
    assert times(context) == ["03:00:00"]
    assert timedelta(seconds=17) <= moments[0] <= timedelta(seconds=22)


def test_a_clock_that_had_been_years_ahead_does_not_silence_the_schedule(context, caplog):
    live(EVERY_10S, context, START + timedelta(days=800), 10)
    live(EVERY_10S, context, START, 20)
    assert times(context)[1:] == ["12:00:10", "12:00:20"]
    assert "far ahead of the clock" in caplog.text


def test_a_redis_that_was_away_for_long_makes_missed_runs_not_a_flood(context):
    schedule = Schedule(every=Duration(10))
    time_away = iter([0, 300])
    context.on_publish = lambda events: context.stopping.jump(next(time_away, 0))
    live(schedule, context, START, 40)
    assert times(context) == ["12:00:10", "12:00:20", "12:05:20", "12:05:30", "12:05:40"]


def test_a_tick_that_could_not_be_published_before_the_stop_is_made_up_for(context):
    context.stopping = threading.Event()
    context.fail(StoreUnavailable("away"))
    asked = threading.Event()
    context.on_publish = lambda events: asked.set()
    schedule = Schedule(every=Duration(0.2), missed="all")
    with running(schedule, context):
        assert asked.wait(30)
    assert context.count() == 0
    context.fail(None)
    with running(schedule, context):
        until(lambda: context.count() >= 2)
    cursor = datetime.fromisoformat(context.redis.hget("broker:source:nightly:cursor", "due").decode())
    dues = [datetime.fromisoformat(record["id"]) for record in context.records()]
    assert cursor == dues[-1]
    assert [(due - dues[0]) / timedelta(milliseconds=200) for due in dues] == list(range(len(dues)))


def test_a_tick_that_cannot_be_published_now_is_repeated_alone_and_what_fell_due_meanwhile_was_missed(context):
    clock = Simulated(START, 3600)
    context.stopping = clock
    steps = Ticker(Schedule(every=Duration(10)), context, clock)
    alone(steps.start(), context)
    clock.wait(10)
    away = [StoreUnavailable("away")]

    def refuse(events):
        if away:
            raise away[0]

    context.on_publish = refuse
    with pytest.raises(StoreUnavailable):
        alone(steps.step(), context)
    clock.wait(60)
    away.clear()
    alone(steps.step(), context)
    assert [(record["id"][11:19], record["data"]["missed"]) for record in context.records()] == [
        ("12:00:10", False),
        ("12:01:10", True),
    ]


def test_a_source_with_nothing_to_do_stops_at_once(context):
    with running(Schedule(cron="@yearly"), context):
        until(lambda: context.redis.exists("broker:source:nightly:cursor"))


def test_the_night_without_half_past_two_has_no_run_at_half_past_two(context):
    schedule = Schedule(cron="30 2 * * *", timezone="Europe/Berlin")
    live(schedule, context, datetime(2027, 3, 27, 20, tzinfo=UTC), 8 * 3600)
    assert context.records() == []
    live(schedule, context, datetime(2027, 3, 28, 4, tzinfo=UTC), 1)
    assert context.records() == []
