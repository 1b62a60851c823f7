"""The schedule source's options: what is refused, what is announced."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from broker.quantity import Duration
from broker.source import find
from sources.schedule import Schedule

ROOT = Path()


def test_the_kind_is_found_by_its_name(tmp_path):
    assert find("schedule", tmp_path) is Schedule


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "exactly one of cron, every and at, got none"),
        ({"cron": "@daily", "every": Duration(60)}, "exactly one of cron, every and at, got cron and every"),
        ({"cron": "60 * * * *"}, "cron: minute: expected 0-59, got '60'"),
        ({"cron": "@daily", "timezone": "Europe/Berln"}, 'timezone: .*did you mean "Europe/Berlin"'),
        ({"every": Duration(0.05)}, "every: expected at least 100ms, got 50ms"),
        ({"every": Duration(10), "jitter": Duration(10)}, r"jitter: expected less than every \(10s\), got 10s"),
        ({"every": Duration(10), "catch_up": Duration(0)}, "catch_up: expected more than 0s"),
        ({"at": "soon"}, "at: expected a date"),
        ({"at": "2027-03-28T02:30", "timezone": "Europe/Berlin"}, "at: .*does not exist in Europe/Berlin"),
    ],
)
def test_wrong_options_are_refused_with_the_reason(options, says):
    problems = Schedule(**options).check(ROOT)
    assert len(problems) == 1
    assert re.search(says, problems[0])


def test_all_mistakes_are_told_at_once():
    wrong = Schedule(cron="0 25 * * *", timezone="Mars/Base", catch_up=Duration(0)).check(ROOT)
    assert [problem.partition(":")[0] for problem in wrong] == ["catch_up", "timezone", "cron"]


@pytest.mark.parametrize(
    "options",
    [
        {"cron": "0 3 * * *", "timezone": "Europe/Berlin"},
        {"cron": "@hourly", "jitter": Duration(60), "missed": "all", "overlap": "queue"},
        {"every": Duration(0.1)},
        {"at": "2027-01-01T00:00"},
        {"at": date(2027, 1, 1)},
    ],
)
def test_right_options_are_accepted(options):
    assert Schedule(**options).check(ROOT) == []


def test_upcoming_are_the_next_due_times_in_the_schedules_zone():
    nightly = Schedule(cron="0 3 * * *", timezone="Europe/Berlin")
    upcoming = nightly.upcoming(datetime(2027, 3, 26, 12, tzinfo=UTC), 3)
    assert [tick.isoformat() for tick in upcoming] == [
        "2027-03-27T03:00:00+01:00",
        "2027-03-28T03:00:00+02:00",
        "2027-03-29T03:00:00+02:00",
    ]


def test_nothing_is_upcoming_once_the_only_time_has_passed():
    once = Schedule(at="2027-01-01T00:00")
    moment = datetime(2027, 1, 1, tzinfo=UTC)
    assert once.upcoming(moment - timedelta(seconds=1), 5) == [moment]
    assert once.upcoming(moment, 5) == []


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        (
            {"cron": "0 3 * * *", "timezone": "Europe/Berlin"},
            r"0 3 \* \* \* \(Europe/Berlin\), next \d{4}-\d\d-\d\d 03:00 CES?T",
        ),
        ({"every": Duration(10)}, r"every 10s, next \d{4}-\d\d-\d\d \d\d:\d\d(:\d0)? UTC"),
        ({"every": Duration(0.1)}, r"every 100ms, next \d{4}-\d\d-\d\d \d\d:\d\d(:\d\d(\.\d)?)? UTC"),
        ({"at": "2399-01-01T00:00"}, r"at 2399-01-01 00:00 UTC"),
        ({"at": "2001-01-01T00:00"}, r"at 2001-01-01 00:00 UTC, which has passed"),
    ],
)
def test_the_plan_is_one_line_with_the_next_time(options, plan):
    [line] = Schedule(**options).plan(ROOT)
    assert re.fullmatch(plan, line), line
