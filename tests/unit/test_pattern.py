"""Patterns: what each operator means, which patterns are refused, and that arrays are matched consistently."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import pattern
from broker.errors import PatternError


def matches(text, record):
    return pattern.compile(text).matches(record)


@pytest.mark.parametrize(
    ("alternative", "yes", "no"),
    [
        ("a", ["a"], ["A", "ab", 1, None, True]),
        (5, [5, 5.0, 5e0], ["5", 6, True]),
        (1, [1, 1.0], [True, "1"]),
        (0, [0, -0.0], [False, "", None]),
        (True, [True], [1, "true", False]),
        (None, [None], ["null", 0, False, ""]),
        (300000000000, [300000000000, 3e11], [300000000001]),
        ({"exactly": "a"}, ["a"], ["A"]),
        ({"prefix": "ab"}, ["ab", "abc"], ["a", "xab", 5]),
        ({"prefix": ""}, ["", "x"], [5, None]),
        ({"suffix": ".jpg"}, ["x.jpg", ".jpg"], ["jpg", "x.JPG"]),
        ({"prefix": {"equals-ignore-case": "Ab"}}, ["aBc"], ["b"]),
        ({"suffix": {"equals-ignore-case": ".JPG"}}, ["x.jpg"], ["x.png"]),
        ({"equals-ignore-case": "NAÏVE"}, ["naïve", "Naïve"], ["naive"]),
        ({"equals-ignore-case": "ΔΣ"}, ["δσ", "ΔΣ"], ["δς"]),
        ({"prefix": {"equals-ignore-case": "ΔΣ"}}, ["ΔΣΔ", "δσδ"], []),
        ({"wildcard": "a*c"}, ["ac", "abc", "abcc"], ["a", "acb", "bac"]),
        ({"wildcard": "*a*"}, ["a", "bab"], ["", "b"]),
        ({"wildcard": "ab*ba"}, ["abba", "abxba"], ["aba"]),
        ({"wildcard": r"a\*\\*"}, [r"a*\b"], ["ab", "a*b"]),
        ({"anything-but": "a"}, ["b", 1, None, True], ["a"]),
        ({"anything-but": [1, 2]}, [3, "1", True], [1, 2.0]),
        ({"anything-but": {"prefix": ["a", "b"]}}, ["c", 5], ["ab", "b"]),
        ({"anything-but": {"suffix": ".txt"}}, ["x.jpg", None], ["x.txt"]),
        ({"anything-but": {"wildcard": "*/tmp/*"}}, ["/a/b", 1], ["/a/tmp/b"]),
        ({"anything-but": {"equals-ignore-case": ["A", "b"]}}, ["c"], ["a", "B"]),
        ({"numeric": ["=", 5]}, [5, 5.0], ["5", 6, True]),
        ({"numeric": [">", 0, "<=", 5]}, [5, 0.1], [0, 5.1, "3", None, True]),
        ({"numeric": [">=", 0, "<", 5]}, [0], [5]),
        ({"numeric": ["<", 0]}, [-1], [0, False]),
        ({"numeric": [">=", 1]}, [1, 10**20], [0, True]),
        ({"cidr": "10.0.0.0/24"}, ["10.0.0.255"], ["10.0.1.0", "10.0.0", 10, "::1"]),
        ({"cidr": "2001:db8::/32"}, ["2001:0db8::1"], ["2001:db9::1", "10.0.0.1"]),
        ({"exists": True}, ["", None, 0], []),
        ({"exists": False}, [], ["", None, 0]),
    ],
)
def test_an_operator_accepts_and_refuses(alternative, yes, no):
    compiled = pattern.compile({"a": [alternative]})
    assert [value for value in yes if not compiled.matches({"a": value})] == []
    assert [value for value in no if compiled.matches({"a": value})] == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ({}, "at least one field"),
        ([], "expected an object"),
        ({"a": {}}, "a: expected at least one field"),
        ({"a": []}, "a: expected at least one value"),
        ({"a": "x"}, "a: expected a list"),
        ({"a": {"b": 5}}, "a.b: expected a list"),
        ({"a": [[1]]}, "a: expected a string"),
        ({"a": [{}]}, "a: expected one operator"),
        ({"a": [{"prefix": "x", "suffix": "y"}]}, "a: expected one operator"),
        ({"a": [{"prefx": "x"}]}, 'did you mean "prefix"?'),
        ({"a": [{"prefix": {"wildcard": "x"}}]}, "a.prefix: expected a string"),
        ({"a": [{"exists": 1}]}, "a.exists: expected true or false"),
        ({"a": [{"anything-but": []}]}, "a.anything-but: expected"),
        ({"a": [{"anything-but": ["x", 1]}]}, "a.anything-but: expected strings only or numbers only"),
        ({"a": [{"anything-but": True}]}, "a.anything-but: expected"),
        ({"a": [{"anything-but": {"prefix": ""}}]}, "a.anything-but.prefix: expected"),
        ({"a": [{"anything-but": {"numeric": ["=", 1]}}]}, "a.anything-but: expected one of"),
        ({"a": [{"wildcard": "a**"}]}, "a.wildcard: two *"),
        ({"a": [{"wildcard": "\\a"}]}, "a.wildcard: a backslash"),
        ({"a": [{"numeric": []}]}, "a.numeric: expected"),
        ({"a": [{"numeric": [">"]}]}, "a.numeric: expected"),
        ({"a": [{"numeric": ["!=", 1]}]}, "a.numeric: expected"),
        ({"a": [{"numeric": [">", True]}]}, "a.numeric: expected numbers"),
        ({"a": [{"numeric": [">", float("nan")]}]}, "a.numeric: expected numbers"),
        ({"a": [{"numeric": [">", 5, "<", 5]}]}, "a.numeric: the lower bound 5 is not below"),
        ({"a": [{"cidr": "10.0.0.0"}]}, "a.cidr: expected a block"),
        ({"a": [{"cidr": "10.0.0.0/33"}]}, "a.cidr: expected a block"),
        ({"a": [{"cidr": "10.0.0.0/255.0.0.0"}]}, "a.cidr: expected a block"),
        ({"$or": [{"a": [1]}]}, "$or: expected a list of at least two"),
        ({"a": {"$or": [{"b": [1]}, 5]}}, "a.$or#2: expected an object"),
        ({"$or": [{"prefix": ["x"]}, {"a": [1]}]}, "$or#1.prefix: an operator cannot stand here"),
    ],
)
def test_a_refusal_says_where_and_what(text, where):
    with pytest.raises(PatternError, match=re.escape(where)):
        pattern.compile(text)


def test_fields_are_joined_by_and_their_values_by_or():
    compiled = pattern.compile({"a": [1, 2], "b": {"c": ["x"]}})
    assert compiled.matches({"a": 2, "b": {"c": "x"}})
    assert not compiled.matches({"a": 3, "b": {"c": "x"}})
    assert not compiled.matches({"a": 1, "b": {"c": "y"}})


def test_or_stands_at_any_level():
    compiled = pattern.compile({"a": {"$or": [{"b": [1]}, {"$or": [{"c": [2]}, {"d": [3]}]}]}, "e": [1]})
    assert [compiled.matches({"a": {key: value}, "e": 1}) for key, value in (("b", 1), ("c", 2), ("d", 3))] == [
        True
    ] * 3
    assert not compiled.matches({"a": {"b": 2}, "e": 1})
    assert not compiled.matches({"a": {"b": 1}})


def test_or_cannot_explode():
    with pytest.raises(PatternError, match="combinations"):
        pattern.compile({f"k{n}": {"$or": [{"a": [1]}, {"b": [2]}]} for n in range(11)})


def test_nesting_is_bounded():
    deep = {"a": [1]}
    for _ in range(200):
        deep = {"a": deep}
    with pytest.raises(PatternError, match="deep"):
        pattern.compile(deep)


@pytest.mark.parametrize("depth", [50, 900])
def test_no_event_is_too_deep_to_be_asked(depth):
    record = json.loads('{"a": ' + "[" * depth + "1" + "]" * depth + "}")
    assert matches({"a": [1]}, record) is (depth < 100)


def test_absence_can_be_one_of_the_alternatives():
    compiled = pattern.compile({"a": {"b": [{"exists": False}, "x"]}})
    assert compiled.matches({}) and compiled.matches({"a": {"b": "x"}}) and compiled.matches({"a": 5})
    assert not compiled.matches({"a": {"b": "y"}})


@pytest.mark.parametrize("empty", [{}, [], [[], {}]])
def test_a_field_without_a_value_does_not_exist(empty):
    assert matches({"a": [{"exists": False}]}, {"a": empty})
    assert not matches({"a": [{"exists": True}]}, {"a": empty})


def test_keys_with_dots_name_the_same_field_as_nested_ones():
    compiled = pattern.compile({"a": {"b.c": [1]}})
    for record in ({"a": {"b": {"c": 1}}}, {"a.b": {"c": 1}}, {"a.b.c": 1}, {"a": {"b.c": 1}}):
        assert compiled.matches(record)
    assert compiled.matches({"a": {"b": {"c": 2}, "b.c": 1}})
    assert not compiled.matches({"a.b": 1})


def test_fields_of_one_array_are_satisfied_by_one_element():
    compiled = pattern.compile({"users": {"name": ["ann"], "role": ["admin"]}})
    assert compiled.matches({"users": [{"name": "bob"}, {"name": "ann", "role": "admin"}]})
    assert not compiled.matches({"users": [{"name": "ann", "role": "user"}, {"name": "bob", "role": "admin"}]})


def test_a_large_array_costs_time_in_proportion():
    # A pair of fields over n elements has n * n combinations; at this size they would take hours.
    compiled = pattern.compile({"d": {"a": [1], "b": [1], "c": {"e": [1], "f": [1]}}})
    items = [{"a": 1, "c": [{"e": 1}, {"f": 1}]} if n % 2 else {"b": 1, "c": {"e": 1, "f": 1}} for n in range(20_000)]
    assert not compiled.matches({"d": items})
    assert compiled.matches({"d": [*items, {"a": 1, "b": 1, "c": [{"e": 1, "f": 1}]}]})


def test_a_wildcard_costs_time_in_proportion():
    assert not matches({"a": [{"wildcard": "*a*a*a*a*b"}]}, {"a": "a" * 1_000_000})


# What follows compares with a slow matcher that follows the definition word by word: an event is a list of fields, a
# field a name, a value and the array elements it lies in; a pattern matches when fields can be picked that agree about
# the elements, the names taken in alphabetical order.

KEYS = st.sampled_from(["a", "b", "a.b"])
VALUES = st.sampled_from([0, 1, "x"])
EVENTS = st.dictionaries(
    KEYS,
    st.recursive(
        VALUES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=2),
        max_leaves=12,
    ),
    max_size=2,
)
CHOICES = st.lists(st.sampled_from([0, 1, "x", {"exists": True}, {"exists": False}]), min_size=1, max_size=2)
PATTERNS = st.recursive(
    st.dictionaries(KEYS, CHOICES, min_size=1, max_size=2),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b"]), inner | CHOICES, min_size=1, max_size=3),
    max_leaves=4,
)


def fields(node, name="", where=()):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from fields(value, f"{name}.{key}" if name else key, (*where, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from fields(value, name, (*where, index) if isinstance(value, dict | list) else where)
    else:
        elements = {where[:at]: step for at, step in enumerate(where) if isinstance(step, int)}
        yield name, node, elements


def wanted(node, name=""):
    for key, value in node.items():
        longer = f"{name}.{key}" if name else key
        if isinstance(value, list):
            yield longer, value
        else:
            yield from wanted(value, longer)


def slow(text, record):
    found, names = list(fields(record)), sorted(dict(wanted(text)).items())

    def agree(mine, theirs):
        return all(theirs[array] == at for array, at in mine.items() if array in theirs)

    def rest(position, elements):
        if position == len(names):
            return True
        name, choices = names[position]
        here = [(value, at) for other, value, at in found if other == name and agree(elements, at)]
        if {"exists": False} in choices and not here and rest(position + 1, elements):
            return True
        return any(
            rest(position + 1, elements | at)
            for value, at in here
            if {"exists": True} in choices or any(type(value) is type(c) and value == c for c in choices)
        )

    return rest(0, {})


@settings(max_examples=400)
@given(PATTERNS, EVENTS)
def test_arrays_and_dots_are_matched_as_the_definition_says(text, record):
    assert matches(text, record) == slow(text, record)


@given(st.text("ab*", max_size=6), st.text("ab", max_size=8))
def test_a_wildcard_is_a_glob(glob, text):
    try:
        compiled = pattern.compile({"a": [{"wildcard": glob}]})
    except PatternError:
        assert "**" in glob or glob.count("*") > 5
    else:
        assert compiled.matches({"a": text}) == fnmatch.fnmatchcase(text, glob)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_any_json_compiles_or_is_refused_in_words(value):
    with contextlib.suppress(PatternError):
        pattern.compile(value).matches({"a": 1})


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3), PATTERNS)
def test_any_event_gets_an_answer(record, text):
    assert matches(text, record) in {True, False}


@given(st.text(min_size=1))
def test_anything_but_is_the_opposite(text):
    for operator in ("prefix", "suffix", "equals-ignore-case"):
        inner = {operator: text}
        for value in (text, text + "x", "x" + text, text.upper()):
            assert matches({"a": [inner]}, {"a": value}) != matches({"a": [{"anything-but": inner}]}, {"a": value})


def test_recursion_stays_far_from_the_limit():
    record: object = 1
    for _ in range(sys.getrecursionlimit() * 2):
        record = [record]
    assert not matches({"a": [1]}, {"a": [record]})
