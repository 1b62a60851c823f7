"""Durations and sizes read as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.quantity import Duration, Size


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
