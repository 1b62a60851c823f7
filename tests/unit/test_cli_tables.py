"""Which columns of a table a terminal shows, and how: all, some, or each row by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli._output import ENOUGH, GAP, Column, coloured, fitting

ID, NAME, EVENT = Column(key="id", folds=False), Column(key="name"), Column(key="event", spare=True)
ROWS = [{"id": "0123456789", "name": "a name that is long", "event": "e" * 20}, {"id": "1", "name": None}]


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (53, [ID, NAME, EVENT]),
        (52, [ID, NAME]),
        (10 + GAP + ENOUGH, [ID, NAME]),
        (10 + GAP + ENOUGH - 1, []),
    ],
)
def test_a_narrow_terminal_does_without_what_it_can_spare_then_breaks_long_values_then_shows_no_table(width, shown):
    assert list(fitting(ROWS, [ID, NAME, EVENT], width)) == shown


def test_no_heading_is_broken_within_a_word():
    wide = Column(key="a", title="billed gigaseconds")
    assert fitting([{"a": 1}], [wide], 80) == {wide: len("gigaseconds")}
    assert fitting([{"a": 1}], [wide], len("gigaseconds") - 1) == {}


@given(
    st.lists(st.fixed_dictionaries({key: st.text() for key in ("id", "name", "event")}), max_size=5),
    st.integers(0, 200),
)
def test_what_is_shown_has_room(rows, width):
    found = fitting(rows, [ID, NAME, EVENT], width)
    assert sum(found.values()) + GAP * (len(found) - 1) <= max(width, 0) or not found


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_those_who_want_them(monkeypatch, variables, wanted):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert coloured() is wanted
