"""Which events belong together, by what is in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.event import new_event
from broker.flow import digest, is_path, key_at

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
