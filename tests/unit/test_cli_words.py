"""What the command line reads and writes: durations, JSON, ages, line numbers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli._errors import show
from broker.cli._given import DURATION, parse_json, read_json
from broker.cli._pusher import _ranges
from broker.cli._when import age, iso, length
from broker.errors import EventError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300), ("90", 90), ("0.5", 0.5), ("1h30m", 5400), ("0", 0)])
def test_a_duration_is_read_with_a_unit_or_as_seconds(text, seconds):
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "5 m", "1.2.3"])
def test_what_is_no_duration_is_wrong_usage(text):
    with pytest.raises(click.UsageError, match="expected a duration"):
        DURATION.convert(text, None, None)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_json_is_read_as_it_is(value):
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "{", "", "{'a': 1}", "[" * 100_000, b"\xff"])
def test_what_is_no_json_is_an_error_of_ours(text):
    with pytest.raises(EventError):
        parse_json(text)


def test_json_of_a_file_is_read_and_its_mistakes_name_it(tmp_path):
    (tmp_path / "good.json").write_text('{"a": [1]}')
    assert read_json(f"@{tmp_path / 'good.json'}") == {"a": [1]}
    (tmp_path / "bad.json").write_text('{"a":\n 1,}')
    with pytest.raises(EventError, match=r"bad\.json: not JSON: .* at line 2, column \d"):
        read_json(f"@{tmp_path / 'bad.json'}")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (200_000, "2d"), (-5, "0s")],
)
def test_an_age_is_one_number(seconds, text):
    assert age(NOW - timedelta(seconds=seconds), NOW) == text


def test_a_length_has_the_digits_that_matter():
    assert [length(value) for value in (None, 0.0082, 1.25, 200)] == ["", "8 ms", "1.25 s", "3m20s"]
    assert (age(None), iso(None), iso(NOW)) == ("", None, "2026-11-23T12:00:00Z")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.json"), "a.json: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("in words of its own"), "in words of its own"),
    ],
)
def test_what_the_system_refuses_is_told_without_its_number(capsys, error, text):
    assert show(error) == 1
    assert capsys.readouterr().err == f"Error: {text}\n"


def test_line_numbers_are_told_in_runs():
    assert _ranges([3, 7, 8, 9, 11, 12]) == "lines 3, 7 to 9, 11 to 12"
