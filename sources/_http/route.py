"""Routes of the HTTP source: `POST /hooks/github/{repo}`; reading them, and finding the one for a request. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

Parameters = Mapping[str, str | int]

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")
_KINDS: dict[str, tuple[str, Callable[[str], str | int]]] = {
    "str": ("[^/]+", str),
    "int": ("[0-9]{1,18}", int),
    "path": (".*", str),
}


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Some methods and the pattern of a path."""

    methods: tuple[str, ...]
    """In the order of METHODS; all of them for `ANY`."""
    path: str
    """As written: `/hooks/github/{repo}`."""

    @classmethod
    def parse(cls, text: str) -> Route:
        """Read `METHOD /path`, where METHOD is `POST`, `GET,POST` or `ANY`.

        The path may have parameters, at the most one between two slashes: `{name}` is any text without a slash,
        `{name:int}` a whole number, `{name:path}` all the rest, slashes included. Raises ValueError.
        """
        names, space, path = text.partition(" ")
        path = path.strip()
        if not space or not path.startswith("/"):
            raise ValueError(f'expected a method and a path such as "POST /hooks/github", got {text!r}')
        methods = METHODS if names == "ANY" else tuple(names.split(","))
        for method in methods:
            if method not in METHODS:
                hint = f"; write {method.upper()}" if method.upper() in METHODS else ""
                raise ValueError(f"unknown method {method!r}: expected {', '.join(METHODS)} or ANY{hint}")
        _check_path(path)
        return cls(methods=tuple(method for method in METHODS if method in methods), path=path)

    def __str__(self) -> str:
        """Return it as one would write it."""
        return f"{'ANY' if self.methods == METHODS else ','.join(self.methods)} {self.path}"

    @property
    def claims(self) -> list[str]:
        """One text for each method; a request that two routes could both take has the same text in both."""
        shape = _PARAMETER.sub(lambda match: f"{{{match[2] or 'str'}}}", self.path)
        return [f"{method} {shape}" for method in self.methods]


def _check_path(path: str) -> None:
    parameters = list(_PARAMETER.finditer(path))
    for match in parameters:
        if match[2] and match[2] not in _KINDS:
            raise ValueError(f"{match[0]}: unknown kind of parameter: expected {', '.join(_KINDS)}")
    names = [match[1] for match in parameters]
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: two parameters have the same name")
    rest = _PARAMETER.sub("", path)
    if forbidden := re.search(r"[{}?#\s]", rest):
        raise ValueError(f"{path}: {forbidden[0]!r} cannot stand in a path; a parameter is written {{name}}")
    # Otherwise one request could make the search for a match take time that grows with the square of its length.
    if any(len(_PARAMETER.findall(part)) > 1 for part in path.split("/")):
        raise ValueError(f"{path}: only one parameter can stand between two slashes")
    if sum(match[2] == "path" for match in parameters) > 1:
        raise ValueError(f"{path}: only one parameter can be a path")


class Routed(Protocol):
    """What a table holds: anything that has a route."""

    @property
    def route(self) -> Route:
        """The route by which it is found."""


R = TypeVar("R", bound=Routed)


class Match(NamedTuple, Generic[R]):
    """The answer of a table."""

    found: R | None
    parameters: Parameters
    allowed: tuple[str, ...]
    """When nothing was found: the methods that this path would have taken; empty when it takes none."""


class _Pattern(NamedTuple, Generic[R]):
    regex: re.Pattern[str]
    readers: dict[str, Callable[[str], str | int]]
    entry: R


class Table(Generic[R]):
    """Finds the entry for a method and a path. What is written out wins over a parameter, and that over a path."""

    def __init__(self, entries: Iterable[R] = ()) -> None:
        """Take the entries; their claims do not overlap."""
        self._literal: dict[str, list[R]] = {}
        patterns = []
        for entry in entries:
            if "{" in entry.route.path:
                patterns.append(entry)
            else:
                self._literal.setdefault(entry.route.path, []).append(entry)
        patterns.sort(key=lambda entry: _generality(entry.route.path))
        self._patterns = [_Pattern(*_compile(entry.route.path), entry) for entry in patterns]

    def find(self, method: str, path: str) -> Match[R]:
        """Return the entry for a request; a HEAD request also finds a GET route."""
        allowed: tuple[str, ...] = ()
        for entry in self._literal.get(path, ()):
            if method in entry.route.methods:
                return Match(entry, {}, ())
            allowed += entry.route.methods
        for regex, readers, entry in self._patterns:
            if match := regex.fullmatch(path):
                if method in entry.route.methods:
                    return Match(entry, {name: read(match[name]) for name, read in readers.items()}, ())
                allowed += entry.route.methods
        return self.find("GET", path) if method == "HEAD" and "GET" in allowed else Match(None, {}, allowed)


def _compile(path: str) -> tuple[re.Pattern[str], dict[str, Callable[[str], str | int]]]:
    regex, at = "", 0
    readers = {}
    for match in _PARAMETER.finditer(path):
        pattern, readers[match[1]] = _KINDS[match[2] or "str"]
        regex += f"{re.escape(path[at : match.start()])}(?P<{match[1]}>{pattern})"
        at = match.end()
    return re.compile(regex + re.escape(path[at:]), re.DOTALL), readers


def _generality(path: str) -> list[int]:
    """Return a key that sorts the more particular path first, part by part."""
    return [_part_generality(part) for part in path.split("/")]


def _part_generality(part: str) -> int:
    match = _PARAMETER.search(part)
    if match is None:
        return 0
    if match[2] == "path":
        return 4
    return 1 if match[0] != part else 2 if match[2] == "int" else 3
