"""Routes of the HTTP source: what they match, and which of several wins."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources._http.route import METHODS, Route, Table


class Entry(NamedTuple):
    route: Route


def table(*routes):
    return Table([Entry(Route.parse(route)) for route in routes])


def found(table, method, path):
    match = table.find(method, path)
    return str(match.found.route) if match.found else None


@pytest.mark.parametrize(
    ("route", "path", "parameters"),
    [
        ("GET /", "/", {}),
        ("GET /a.b", "/a.b", {}),
        ("GET /{x}", "/é", {"x": "é"}),
        ("GET /{x}.json", "/a.b.json", {"x": "a.b"}),
        ("GET /v{n:int}/x", "/v12/x", {"n": 12}),
        ("GET /{rest:path}", "/", {"rest": ""}),
        ("GET /a/{rest:path}", "/a/b/c\n", {"rest": "b/c\n"}),
        ("GET /{a:path}/end", "/x/end/end", {"a": "x/end"}),
    ],
)
def test_a_path_is_matched_whole_and_gives_its_parameters(route, path, parameters):
    assert table(route).find("GET", path).parameters == parameters


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ("GET /a", "/a/"),
        ("GET /a", "/A"),
        ("GET /a.b", "/axb"),
        ("GET /{x}", "/a/b"),
        ("GET /{x}", "/"),
        ("GET /{n:int}", "/-1"),
        ("GET /{n:int}", "/\u0663"),
        ("GET /a", "/a\n"),
    ],
)
def test_other_paths_are_not_matched(route, path):
    assert found(table(route), "GET", path) is None


def test_the_more_particular_route_wins_in_whatever_order_they_come():
    routes = ["ANY /{rest:path}", "GET /{a}", "GET /{n:int}", "GET /x{a}", "GET /x1", "GET /x1/{b}", "GET /{a}/b"]
    for order in (routes, routes[::-1]):
        every = table(*order)
        paths = ["/x1", "/x2", "/5", "/y", "/x1/b", "/y/b", "/y/c/d"]
        expected = ["GET /x1", "GET /x{a}", "GET /{n:int}", "GET /{a}", "GET /x1/{b}", "GET /{a}/b", "ANY /{rest:path}"]
        assert [found(every, "GET", path) for path in paths] == expected


def test_a_method_goes_on_to_the_next_route_and_is_told_what_is_allowed():
    routes = table("GET /a", "POST /{x}")
    assert found(routes, "POST", "/a") == "POST /{x}"
    assert routes.find("PUT", "/a").allowed == ("GET", "POST")
    assert routes.find("PUT", "/b/c").allowed == ()


def test_head_finds_a_get_route_only_where_it_has_none_of_its_own():
    assert found(table("GET /a"), "HEAD", "/a") == "GET /a"
    assert found(table("GET /a", "HEAD /{x}"), "HEAD", "/a") == "HEAD /{x}"
    assert found(table("POST /a"), "HEAD", "/a") is None


def test_any_is_every_method():
    assert Route.parse("ANY /a").methods == METHODS
    assert str(Route.parse("POST,GET /a")) == "GET,POST /a"


@given(st.from_regex(r"(/(\{[ab]\}|[xy]?))+", fullmatch=True), st.from_regex(r"(/[xyz]?)+", fullmatch=True))
def test_any_route_that_is_read_can_be_searched(pattern, path):
    try:
        route = Route.parse(f"GET {pattern}")
    except ValueError:
        return
    match = Table([Entry(route)]).find("GET", path)
    if match.found:
        filled = pattern
        for name, value in match.parameters.items():
            filled = filled.replace(f"{{{name}}}", str(value))
        assert filled == path
