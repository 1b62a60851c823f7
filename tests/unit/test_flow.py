"""Which events belong together, by what is in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.event import new_event
from broker.flow import Flow, digest, flow_of, is_path, key_at
from broker.function import Function
from broker.quantity import Duration

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def event(data=None, **more):
    return new_event(source="q", type="t", data=data, **more)


@pytest.mark.parametrize("path", ["subject", "data", "data.customer", "data.a.b-c.1", "partitionkey", "type"])
def test_what_an_event_may_have_is_a_path(path):
    assert is_path(path)


@pytest.mark.parametrize("path", ["", ".", "data.", ".data", "data..x", "customer", "subject.x", "Data.x"])
def test_anything_else_is_none(path):
    assert not is_path(path)


def test_the_value_at_the_path_is_the_key():
    ada, bob = event({"customer": {"name": "ada"}, "n": 1}), event({"customer": {"name": "bob"}})
    assert key_at(ada, "data.customer.name") == key_at(event({"customer": {"name": "ada"}}), "data.customer.name") != ""
    assert key_at(ada, "data.customer.name") != key_at(bob, "data.customer.name")
    assert key_at(event(subject="a"), "subject") == digest("a")


@pytest.mark.parametrize("data", [None, {}, {"customer": None}, [{"customer": 1}], "customer", 5])
def test_an_event_without_the_value_has_no_key(data):
    assert key_at(event(data), "data.customer") == ""


@given(JSON, JSON)
def test_values_have_the_same_digest_when_they_are_the_same(one, other):
    same = one == other and str(one) == str(other)
    assert not same or digest(one) == digest(other)


def test_kinds_of_values_are_told_apart_and_numbers_are_not():
    assert len({digest(value) for value in (1, "1", True, [1], {"a": 1}, 1.5)}) == 6
    assert digest(5) == digest(5.0)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest("a\udc80") != digest("a")


def function(**options):
    return Function(name="f", handler="f.py:handler", **options)


def test_a_function_without_flow_control_asks_for_nothing():
    assert flow_of(function(), event({"a": 1})) is None


def test_what_a_function_asks_of_an_event_carries_its_name():
    options = {"order_by": "data.a", "unique_for": Duration(60), "unique_by": "data.b", "debounce": Duration(5)}
    flow = flow_of(function(**options, debounce_by="data.c", debounce_max=Duration(9)), event({"a": 1, "b": 2, "c": 3}))
    assert flow == Flow(
        turn=f"f:{digest(1)}",
        unique=f"f:{digest(2)}",
        unique_ms=60_000,
        debounce=f"f:{digest(3)}",
        quiet=5,
        longest=9,
    )


def test_an_event_without_the_values_is_left_alone():
    options = {"order_by": "data.a", "unique_for": Duration(60), "unique_by": "data.b", "debounce": Duration(5)}
    assert flow_of(function(**options, debounce_by="data.c"), event({})) == Flow()


def test_without_a_path_events_are_equal_by_what_they_say_and_debounced_by_their_subject():
    def keys(one):
        flow = flow_of(function(unique_for=Duration(60), debounce=Duration(5)), one)
        return flow.unique, flow.debounce

    assert keys(event({"a": 1})) == keys(event({"a": 1}))
    assert keys(event({"a": 1}))[0] != keys(event({"a": 2}))[0]
    assert keys(event({"a": 1}))[1] == keys(event({"a": 2}))[1]
    assert keys(event(subject="x"))[1] != keys(event(subject="y"))[1]
