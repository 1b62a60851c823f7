"""Cron expressions: which moments they mean, and what is said about those that mean none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources._schedule.cron import Crontab
from sources._schedule.ticks import Cron, between

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


def meant(field, low, high, names=(), start=0):
    """The values that a field means, item by item."""

    def number(text):
        return names.index(text) + start if text in names else int(text)

    values = set()
    for item in field.split(","):
        what, _, step = item.partition("/")
        first, _, last = what.partition("-")
        if what == "*":
            run = [*range(low, high + 1)]
        elif last or not step:
            begin, end = number(first), number(last or first)
            # Over the end of the week or the year it goes once round.
            once_round = [*range(begin, high + 1), *range(low, end + 1)]
            run = once_round if begin > end else [*range(begin, end + 1)]
        else:
            run = [*range(number(first), high + 1)]
        values.update(run[:: int(step or 1)])
    return values


def brute_force(expression, since, until):
    """Every minute in (since, until] that crontab(5) says matches; nothing here is shared with the real thing."""
    minute, hour, day, month, weekday = expression.split()
    minutes, hours, days = meant(minute, 0, 59), meant(hour, 0, 23), meant(day, 1, 31)
    months = meant(month, 1, 12, MONTHS, 1)
    weekdays = {value % 7 for value in meant(weekday, 0, 6, WEEKDAYS)}
    restricted = not day.startswith("*") and not weekday.startswith("*")
    found = []
    moment = since.replace(second=0, microsecond=0) + timedelta(minutes=1)
    while moment <= until:
        by_day, by_weekday = moment.day in days, moment.isoweekday() % 7 in weekdays
        if (
            moment.minute in minutes
            and moment.hour in hours
            and moment.month in months
            and ((by_day or by_weekday) if restricted else (by_day and by_weekday))
        ):
            found.append(moment)
        moment += timedelta(minutes=1)
    return found


def fields(low, high, names=(), start=0, *, wraps=False):
    def spell(value):
        options = [st.just(str(value))]
        if names and value - start < len(names):
            options.append(st.just(names[value - start]))
        return st.one_of(options)

    def item(draw):
        shape = draw(st.sampled_from(["*", "one", "range", "range/", "*/", "one/"]))
        step = f"/{draw(st.integers(1, high - low + 1))}" if shape.endswith("/") else ""
        if shape.startswith("*"):
            return "*" + step
        first = draw(st.integers(low, high))
        if shape.startswith("one"):
            return draw(spell(first)) + step
        last = draw(st.integers(low if wraps else first, high))
        return f"{draw(spell(first))}-{draw(spell(last))}{step}"

    return st.lists(st.composite(item)(), min_size=1, max_size=3).map(",".join)


DAYS = (
    st.just("*") | fields(1, 31),
    st.just("*") | fields(1, 12, MONTHS, 1, wraps=True),
    fields(0, 6, WEEKDAYS, wraps=True) | st.sampled_from(["7", "5-7", "0-7", "6-7/1", "1,7", "sun-tue", "fri-sun"]),
)


@settings(max_examples=40)
@given(
    expression=st.tuples(st.sampled_from(["0", "*/20", "7,30-31"]), fields(0, 23), *DAYS).map(" ".join),
    day=st.integers(0, 1200),
)
def test_a_cron_expression_means_the_minutes_that_crontab_5_says(expression, day):
    since = datetime(2026, 1, 1, 11, 59, tzinfo=UTC) + timedelta(days=day)
    until = since + timedelta(days=15)
    try:
        cron = Cron.parse(expression, ZoneInfo("UTC"))
    except ValueError:  # 31 April may be generated, and is rightly refused
        assert brute_force(expression, since, until) == []
        return
    assert list(between(cron, since, until)) == brute_force(expression, since, until)


@given(minute=fields(0, 59), hour=fields(0, 23))
def test_every_form_of_a_field_means_its_values(minute, hour):
    crontab = Crontab.parse(f"{minute} {hour} * * *")
    assert set(crontab.minutes) == meant(minute, 0, 59)
    assert set(crontab.hours) == meant(hour, 0, 23)


@pytest.mark.parametrize(
    ("weekday", "days"),
    [
        ("0", {0}),
        ("7", {0}),
        ("1", {1}),
        ("5-7", {5, 6, 0}),
        ("0-6", {0, 1, 2, 3, 4, 5, 6}),
        ("0-7", {0, 1, 2, 3, 4, 5, 6}),
        ("*/2", {0, 2, 4, 6}),
        ("1-5/2", {1, 3, 5}),
        ("sun-tue", {0, 1, 2}),
        ("fri-mon", {5, 6, 0, 1}),
        ("6-1", {6, 0, 1}),
        ("MON,Wed", {1, 3}),
        ("2/2", {2, 4, 6}),
    ],
)
def test_weekdays_count_from_sunday_as_in_cron(weekday, days):
    cron = Cron.parse(f"0 0 * * {weekday}", ZoneInfo("UTC"))
    sunday = datetime(2026, 11, 22, tzinfo=UTC)
    ticks = between(cron, sunday - timedelta(seconds=1), sunday + timedelta(days=6))
    assert {tick.isoweekday() % 7 for tick in ticks} == days


def test_either_of_two_restricted_day_fields_will_do_but_a_star_has_to_match():
    first_or_monday = Cron.parse("0 0 1 * mon", ZoneInfo("UTC"))
    since, until = datetime(2026, 11, 30, tzinfo=UTC), datetime(2026, 12, 15, tzinfo=UTC)
    assert [tick.day for tick in between(first_or_monday, since, until)] == [1, 7, 14]
    odd_mondays = Cron.parse("0 0 */2 * mon", ZoneInfo("UTC"))
    assert [tick.day for tick in between(odd_mondays, since, until)] == [7]


@pytest.mark.parametrize(
    ("nickname", "expression"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@weekly", "0 0 * * sun"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 jan *"),
    ],
)
def test_a_nickname_is_its_expression(nickname, expression):
    assert Crontab.parse(nickname) == Crontab.parse(expression)


def test_a_leap_day_is_found_years_ahead():
    assert Cron.parse("0 0 29 2 *", ZoneInfo("UTC")).after(datetime(2097, 1, 1, tzinfo=UTC)).year == 2104


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("* * * *", r"expected 5 fields .*, got 4"),
        ("0 0 3 * * *", r"expected 5 fields .*, got 6"),
        ("60 * * * *", r"minute: expected 0-59, got '60'"),
        ("* 24 * * *", r"hour: expected 0-23, got '24'"),
        ("* * 0 * *", r"day of month: expected 1-31, got '0'"),
        ("* * * 13 *", r"month: expected 1-12 or jan-dec, got '13'"),
        ("* * * * 8", r"day of week: expected 0-7 .*sun-sat, got '8'"),
        ("* * * * monday", r"day of week: .*got 'monday'"),
        ("* 22-2 * * *", r"hour: expected a range that runs forward, got '22-2'; write 22-23,0-2"),
        ("*/0 * * * *", r"minute: expected a step from 1 to 60, got '\*/0'"),
        ("*/90 * * * *", r"minute: expected a step from 1 to 60, got '\*/90'"),
        ("1,,2 * * * *", r"minute: expected \*, 0-59, a range"),
        ("? * * * *", r"minute: expected \*, 0-59, a range"),
        ("0 0 L * *", r"day of month: expected 1-31, got 'L'"),
        ("0 0 31 feb,apr *", r"day of month: expected a day that month feb,apr has, got '31'"),
        ("@dayly", r"got '@dayly'; did you mean \"@daily\""),
        ("", r"expected 5 fields .*, got 0"),
    ],
)
def test_a_wrong_expression_is_refused_with_field_and_expectation(expression, says):
    with pytest.raises(ValueError, match=says):
        Crontab.parse(expression)


@given(st.text(max_size=20) | st.lists(st.text(alphabet="0123456789*/-,a", min_size=1), min_size=5).map(" ".join))
def test_no_text_makes_the_parser_fail_otherwise_than_by_saying_so(text):
    try:
        Crontab.parse(text)
    except ValueError as error:
        assert "expected" in str(error)  # noqa: PT017 -- most texts raise, some are expressions
