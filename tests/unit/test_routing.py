"""Routes: the index gives the same answer as asking every trigger, and looks at few of them."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import pattern
from broker.errors import PatternError
from broker.routing import Routes
from broker.trigger import Trigger


def trigger(function, text=None, source="inbox"):
    return Trigger(source=source, function=function, pattern=text)


def naive(triggers, record, source):
    matched = [
        each.function
        for each in triggers
        if each.source == source and (each.pattern is None or pattern.compile(each.pattern).matches(record))
    ]
    return list(dict.fromkeys(matched))


def test_a_trigger_without_a_pattern_gets_every_event_of_its_source():
    routes = Routes([trigger("a"), trigger("b", source="other")])
    assert routes.match({}, "inbox") == ["a"]
    assert routes.match({}, "other") == ["b"]
    assert routes.match({}, "nowhere") == []


def test_a_function_is_owed_an_event_once_and_in_the_order_of_the_triggers():
    routes = Routes([trigger("b", {"x": [{"prefix": "a"}]}), trigger("a", {"x": ["ab"]}), trigger("b", {"x": ["ab"]})])
    assert routes.match({"x": "ab"}, "inbox") == ["b", "a"]
    assert routes.match({"x": "ac"}, "inbox") == ["b"]


def test_no_triggers_match_nothing():
    assert Routes([]).match({"x": 1}, "inbox") == []


def test_numbers_and_booleans_are_told_apart():
    routes = Routes([trigger("number", {"x": [1]}), trigger("boolean", {"x": [True]}), trigger("text", {"x": ["1"]})])
    assert routes.match({"x": 1.0}, "inbox") == ["number"]
    assert routes.match({"x": True}, "inbox") == ["boolean"]
    assert routes.match({"x": "1"}, "inbox") == ["text"]


def test_every_value_of_an_array_is_looked_up():
    routes = Routes([trigger(name, {"data": {"tags": {"k": [name]}}}) for name in "abc"])
    assert routes.match({"data": {"tags": [{"k": "c"}, {"k": ["a", "x"]}]}}, "inbox") == ["a", "c"]


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(PatternError, match="x"):
        Routes([trigger("a", {"x": "y"})])


VALUES = st.sampled_from(["a", "b", 1, True, None])
KEYS = st.sampled_from(["k", "l", "k.l"])
FIELDS = st.lists(VALUES | st.sampled_from([{"prefix": "a"}, {"exists": False}]), min_size=1, max_size=2)
PATTERNS = st.recursive(
    st.dictionaries(KEYS, FIELDS, min_size=1, max_size=2),
    lambda inner: (
        st.dictionaries(KEYS, inner, min_size=1, max_size=2)
        | st.fixed_dictionaries({"$or": st.lists(inner, min_size=2, max_size=2)})
    ),
    max_leaves=3,
)
RECORDS = st.dictionaries(
    KEYS,
    st.recursive(VALUES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2)),
    max_size=3,
)
TRIGGERS = st.lists(
    st.builds(
        trigger,
        st.sampled_from(["f", "g", "h", "i"]),
        st.none() | PATTERNS,
        st.sampled_from(["inbox", "other"]),
    ),
    max_size=8,
)


@settings(max_examples=300)
@given(TRIGGERS, RECORDS)
def test_the_index_answers_as_the_naive_scan_does(triggers, record):
    for source in ("inbox", "other"):
        assert Routes(triggers).match(record, source) == naive(triggers, record, source)


def steps(function):
    """Return how many lines of Python a call runs: a measure of its cost that no busy machine can disturb."""
    count = 0

    def trace(*_):
        nonlocal count
        count += 1
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize(
    "text",
    [
        lambda n: {"subject": [f"s{n}"]},
        lambda n: {"type": ["file.created"], "data": {"key": [f"s{n}", f"t{n}"], "size": [{"numeric": [">", 0]}]}},
        lambda n: {"$or": [{"subject": [f"s{n}"]}, {"data": {"key": [f"s{n}"]}}]},
    ],
    ids=["one field", "several fields", "or"],
)
def test_ten_thousand_triggers_cost_what_ten_do(text):
    record = {"type": "file.created", "subject": "s7", "data": {"key": "s7", "size": 1}}
    few, many = (Routes([trigger(f"f{n}", text(n)) for n in range(count)]) for count in (10, 10_000))
    assert few.match(record, "inbox") == many.match(record, "inbox") == ["f7"]
    assert steps(lambda: many.match(record, "inbox")) == steps(lambda: few.match(record, "inbox"))
