"""Ticks on real dates: what daylight saving time does to them, and what hosts agree on."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources._schedule.ticks import Cron, Every, Once, between, find_moment, find_zone, following, jitter, last, stamp

BERLIN = ZoneInfo("Europe/Berlin")


def moments(first_year, last_year):
    bounds = (datetime(year, 1, 1) for year in (first_year, last_year))  # noqa: DTZ001 -- what hypothesis asks for
    return st.datetimes(*bounds, timezones=st.just(UTC))


def local_ticks(expression, zone, since, count):
    """The next ticks after a local time, as local times with their offset from UTC in hours."""
    start = datetime.fromisoformat(since).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    ticks = islice(following(Cron.parse(expression, ZoneInfo(zone)), start), count)
    return [f"{tick.astimezone(ZoneInfo(zone)):%m-%d %H:%M %z}" for tick in ticks]


@pytest.mark.parametrize(
    ("expression", "zone", "since", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", "2027-03-27T00:00", ["03-27 02:30 +0100", "03-29 02:30 +0200"]),
        ("*/30 * * * *", "Europe/Berlin", "2027-03-28T01:15", ["03-28 01:30 +0100", "03-28 03:00 +0200"]),
        ("30 2 * * *", "America/New_York", "2027-03-13T00:00", ["03-13 02:30 -0500", "03-15 02:30 -0400"]),
        # Half an hour only: 02:00 becomes 02:30.
        ("15 2 * * *", "Australia/Lord_Howe", "2027-10-02T00:00", ["10-02 02:15 +1030", "10-04 02:15 +1100"]),
        ("30 2 * * *", "Australia/Lord_Howe", "2027-10-02T12:00", ["10-03 02:30 +1100"]),
        # Midnight itself is skipped.
        ("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00", ["11-05 00:00 -0200"]),
        # Samoa crossed the date line: there was no 30 December 2011.
        ("0 12 * * *", "Pacific/Apia", "2011-12-28T13:00", ["12-29 12:00 -1000", "12-31 12:00 +1400"]),
        ("0 12 30 * *", "Pacific/Apia", "2011-12-01T00:00", ["01-30 12:00 +1400"]),
    ],
)
def test_a_local_time_that_does_not_exist_is_skipped(expression, zone, since, expected):
    assert local_ticks(expression, zone, since, len(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "zone", "since", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", "2027-10-30T12:00", ["10-31 02:30 +0200", "11-01 02:30 +0100"]),
        ("30 1 * * *", "America/New_York", "2027-11-06T12:00", ["11-07 01:30 -0400", "11-08 01:30 -0500"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2027-04-03T12:00", ["04-04 01:45 +1100", "04-05 01:45 +1030"]),
        (
            "*/30 * * * *",
            "Europe/Berlin",
            "2027-10-31T01:45",
            ["10-31 02:00 +0200", "10-31 02:30 +0200", "10-31 03:00 +0100"],
        ),
        (
            "*/15 * * * *",
            "Australia/Lord_Howe",
            "2027-04-04T01:20",
            ["04-04 01:30 +1100", "04-04 01:45 +1100", "04-04 02:00 +1030"],
        ),
    ],
)
def test_a_local_time_that_occurs_twice_runs_once_at_the_first(expression, zone, since, expected):
    assert local_ticks(expression, zone, since, len(expected)) == expected


def test_a_start_within_the_second_pass_of_the_doubled_hour_repeats_nothing():
    second_pass = datetime(2027, 10, 31, 1, 10, tzinfo=UTC)  # 02:10 for the second time
    assert Cron.parse("*/30 * * * *", BERLIN).after(second_pass) == datetime(2027, 10, 31, 2, 0, tzinfo=UTC)


@given(
    start=moments(2020, 2035),
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"]),
    expression=st.sampled_from(["*/7 * * * *", "30 2 * * *", "15,45 1-2 * * *", "0 0 * * sun"]),
)
def test_ticks_rise_and_show_a_matching_local_time_once(start, zone, expression):
    ticks = [start, *islice(following(Cron.parse(expression, ZoneInfo(zone)), start), 12)]
    assert ticks == sorted(set(ticks))
    shown = [tick.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for tick in ticks[1:]]
    assert len(set(shown)) == len(shown)
    assert all(tick.astimezone(ZoneInfo(zone)).fold == 0 for tick in ticks[1:])


def test_an_interval_takes_no_notice_of_the_clocks_being_changed():
    before = datetime(2027, 10, 30, 23, 59, tzinfo=UTC)
    ticks = list(islice(following(Every(interval=timedelta(minutes=30)), before), 8))
    assert [after - before for before, after in pairwise(ticks)] == [timedelta(minutes=30)] * 7


@given(
    moment=moments(1960, 2100),
    interval=st.integers(100_000, 10**13),
)
def test_an_interval_is_due_at_the_multiples_since_the_epoch(moment, interval):
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    tick = Every(interval=timedelta(microseconds=interval)).after(moment)
    assert moment < tick <= moment + timedelta(microseconds=interval)
    assert not (tick - epoch) % timedelta(microseconds=interval)


@given(
    start=moments(2026, 2028),
    length=st.timedeltas(timedelta(0), timedelta(days=3)),
    ticks=st.sampled_from(
        [
            Every(interval=timedelta(minutes=7)),
            Cron.parse("*/20 9-17 * * mon-fri", BERLIN),
            Cron.parse("@daily", BERLIN),
            Once(moment=datetime(2027, 1, 1, tzinfo=UTC)),
        ]
    ),
)
def test_the_last_tick_is_found_without_counting(start, length, ticks):
    assert last(ticks, start, start + length) == next(iter([*between(ticks, start, start + length)][::-1]), None)


def test_the_last_of_a_hundred_million_ticks_is_found_at_once():
    year = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    assert last(Every(interval=timedelta(milliseconds=100)), *year) == year[1]


@given(
    name=st.text(min_size=1, max_size=8),
    tick=moments(2000, 2100),
)
def test_jitter_is_the_same_on_every_host_and_within_its_bounds(name, tick):
    moved = jitter(name, tick, timedelta(seconds=30))
    assert timedelta(0) <= moved <= timedelta(seconds=30)
    assert moved == jitter(name, tick.astimezone(BERLIN), timedelta(seconds=30))


def test_jitter_spreads_names_and_ticks():
    tick = datetime(2026, 11, 23, 3, tzinfo=UTC)
    by_name = [jitter(f"s{n}", tick, timedelta(seconds=100)).total_seconds() for n in range(200)]
    by_tick = [jitter("s", tick + timedelta(days=n), timedelta(seconds=100)).total_seconds() for n in range(200)]
    for seconds in (by_name, by_tick):
        assert min(seconds) < 10
        assert 40 < sum(seconds) / 200 < 60
        assert max(seconds) > 90
    assert jitter("backup", tick, timedelta(seconds=100)) == timedelta(seconds=96, microseconds=11059)


def test_a_due_time_is_written_with_a_fraction_only_where_it_has_one():
    assert stamp(datetime(2026, 11, 24, 4, 0, tzinfo=BERLIN)) == "2026-11-24T03:00:00Z"
    assert stamp(datetime(2026, 11, 24, 4, 0, 0, 100_000, tzinfo=UTC)) == "2026-11-24T04:00:00.100000Z"


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2027-01-01T00:00", datetime(2026, 12, 31, 23, tzinfo=UTC)),
        ("2027-01-01", datetime(2026, 12, 31, 23, tzinfo=UTC)),
        ("2027-01-01T00:00Z", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2027-01-01 00:00:00-05:00", datetime(2027, 1, 1, 5, tzinfo=UTC)),
        (date(2027, 1, 1), datetime(2026, 12, 31, 23, tzinfo=UTC)),
        (datetime(2027, 1, 1), datetime(2026, 12, 31, 23, tzinfo=UTC)),  # noqa: DTZ001 -- a local date-time of TOML
        (datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=1))), datetime(2026, 12, 31, 23, tzinfo=UTC)),
        ("2027-10-31T02:30", datetime(2027, 10, 31, 0, 30, tzinfo=UTC)),
    ],
)
def test_a_date_without_offset_is_in_the_schedules_zone(at, expected):
    assert find_moment(at, BERLIN) == expected


@pytest.mark.parametrize("at", ["tomorrow", "", 5, True, "2027-02-30T00:00"])
def test_what_is_no_date_is_refused(at):
    with pytest.raises(ValueError, match="expected a date"):
        find_moment(at, BERLIN)


def test_a_date_that_the_clocks_skip_is_refused():
    with pytest.raises(ValueError, match="does not exist in Europe/Berlin"):
        find_moment("2027-03-28T02:30", BERLIN)


@pytest.mark.parametrize(
    ("name", "hint"), [("Europe/Berln", "Europe/Berlin"), ("europe/berlin", "Europe/Berlin"), ("Europe", "Europe/")]
)
def test_an_unknown_time_zone_is_refused_with_the_nearest(name, hint):
    with pytest.raises(ValueError, match=f"did you mean .*{hint}"):
        find_zone(name)
    for outside in ("../etc/passwd", "/etc/passwd", "", "\0"):
        with pytest.raises(ValueError, match="IANA"):
            find_zone(outside)
