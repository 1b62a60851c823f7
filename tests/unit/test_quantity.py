"""Durations, sizes and rates read as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.quantity import Duration, Rate, Size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("1h30m", 5400), ("2d", 172800), ("1w", 604800), ("1.5s", 1.5), (7, 7), (0.1, 0.1)],
)
def test_a_duration_is_read(text, seconds):
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "5 minutes", "1h-2m", "-5s", -1, True, None, "1e3s", "\uff15s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match=r"duration"):
        Duration.parse(text)


@given(st.integers(0, 10**7))
def test_a_duration_reads_back_as_it_is_written(seconds):
    assert Duration.parse(str(Duration(seconds))) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("256MB", 256 << 20), ("1GB", 1 << 30), ("512KB", 512 << 10), ("1.5MiB", 3 << 19), (7, 7)]
)
def test_a_size_is_read_in_units_of_1024(text, count):
    assert Size.parse(text) == count


@pytest.mark.parametrize("text", ["", "MB", "5 TB", "-1MB", -1, True, None])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="size"):
        Size.parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("10/s", 0.1), ("30/m", 2), ("1/d", 86400), ("0.5 / s", 2), ("90/h", 40), ("1000000/s", 1e-6)]
)
def test_a_rate_is_read_as_times_a_second(text, seconds):
    assert Rate.parse(text).interval == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "10", "10/", "/s", "0/s", "-1/s", "10/w", "10 per s", "2000000/s", 10, True, None]
)
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match="rate"):
        Rate.parse(text)


@given(st.integers(1, 10**6), st.sampled_from("smhd"))
def test_a_rate_reads_back_as_it_is_written(count, unit):
    rate = Rate.parse(f"{count}/{unit}")
    assert Rate.parse(str(rate)) == pytest.approx(rate)
