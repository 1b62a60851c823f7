"""Table: turn the tables of a TOML file into structs, and report every mistake with its place.

msgspec stops at the first mistake and names it `$.retry`; a person who edits a file wants all of them, in the file's
own words. So every field is converted for itself, and msgspec is asked only about single values.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from broker.errors import Mistake
from broker.names import inside, nearest
from broker.quantity import Duration, Rate, Size

T = TypeVar("T", bound=msgspec.Struct)

MISSING: Final = object()
"""What a value that could not be converted becomes."""

_LONGEST = 100 * 365 * 86400  # seconds; operating systems refuse to wait much longer
_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")
_LISTS = (list, tuple, set, frozenset)
_SIMPLE = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Duration: 'a duration such as "30s" or "1h30m"',
    Size: 'a size such as "256MB"',
    Rate: 'a rate such as "10/s" or "100/m"',
    Any: "anything",
}


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads the tables of one file; what is wrong gathers in `mistakes`, in the order of reading."""

    file: str
    environ: Mapping[str, str]
    """Where `${VAR}` is looked up."""
    mistakes: list[Mistake] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    """Place -> the text as it stands in the file, for strings with `${VAR}`: their values may be secret."""
    unfilled: set[str] = field(default_factory=set)
    """Places of strings whose variables could not be filled in; that is said, and nothing more about them."""

    def wrong(self, place: str, problem: str, hint: str = "") -> None:
        """Note a mistake."""
        self.mistakes.append(Mistake(file=self.file, place=place, problem=problem, hint=hint))

    def substitute(self, value: Any, place: str = "") -> Any:
        """Return the value with `${VAR}` replaced in every string in it; `$${` stands for a plain `${`."""
        if isinstance(value, str):
            return self._substitute(value, place)
        if isinstance(value, dict):
            return {key: self.substitute(item, inside(place, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.substitute(item, f"{place}#{number}") for number, item in enumerate(value, 1)]
        return value

    def _substitute(self, text: str, place: str) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            name = match[1]
            self.written[place] = text
            if name is None:
                self.wrong(place, "expected ${NAME} after ${", "write $${ for a plain ${")
            elif (value := self.environ.get(name)) is not None:
                return value
            else:
                hint = nearest(name, self.environ) or "set it in the environment, or in .env beside the file"
                self.wrong(place, f"the environment variable {name} is not set", hint)
            self.unfilled.add(place)
            return match[0]

        return _REFERENCE.sub(replace, text) if "${" in text else text

    def struct(
        self,
        kind: type[T],
        table: Any,
        place: str,
        *,
        given: Mapping[str, Any] = types.MappingProxyType({}),
        partial: bool = False,
    ) -> T | None:
        """Return the table as a struct of that kind, or None after noting why not.

        `given` are fields that do not stand in the table, such as a function's name. A field that is wrong but has a
        default gets it, so that the rest can still be checked; `partial` puts MISSING for a required one.
        """
        if not isinstance(table, dict):
            self.wrong(place, f"expected a table, got {self.show(table, place)}")
            return None
        known = {name: info for name, info in _fields(kind).items() if name not in given}
        for key in table:
            if key not in known:
                self.wrong(inside(place, key), "unknown key", nearest(key, known) or f"known: {', '.join(known)}")
        values = dict(given)
        for key, info in known.items():
            if key in table:
                value = self.value(info.type, table[key], inside(place, key))
                if value is not MISSING:
                    values[info.name] = value
            elif info.required:
                self.wrong(place, f"{key} is missing: expected {describe(info.type)}")
        absent = {info.name: MISSING for info in known.values() if info.required and info.name not in values}
        if absent and not partial:
            return None
        try:
            return kind(**values, **absent)
        except (TypeError, ValueError) as error:  # what __post_init__ of a source's own options raises
            self.wrong(place, self.redact(str(error), place))
            return None

    def value(self, kind: Any, value: Any, place: str) -> Any:
        """Return the value as that type, or MISSING after noting why not."""
        chosen = _choose(kind, value)
        if _is_struct(chosen) and isinstance(value, dict):
            made = self.struct(chosen, value, place)
            return MISSING if made is None else made
        origin, arguments = get_origin(chosen), get_args(chosen)
        if origin in _LISTS and arguments and isinstance(value, list):
            items = [self.value(arguments[0], item, f"{place}#{number}") for number, item in enumerate(value, 1)]
            return MISSING if any(item is MISSING for item in items) else origin(items)
        if origin is dict and isinstance(value, dict):
            entries = {key: self.value(arguments[1], item, inside(place, key)) for key, item in value.items()}
            return MISSING if any(item is MISSING for item in entries.values()) else entries
        if any(_within(where, place) for where in self.unfilled):
            return MISSING
        try:
            # Only strings come out of the environment, so workers = "${WORKERS}" has to be read as a number.
            return msgspec.convert(value, kind, dec_hook=quantity, strict=place not in self.written)
        except (msgspec.ValidationError, OverflowError):
            hint = nearest(value, _literals(kind)) if isinstance(value, str) else ""
            self.wrong(place, f"expected {describe(kind)}, got {self.show(value, place)}", hint)
            return MISSING

    def show(self, value: Any, place: str) -> str:
        """Return the value as one would write it, short; a string that held `${VAR}` as it stands in the file."""
        if place in self.written:
            return f"the value of {json.dumps(self.written[place])}"
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, dict):
            return "a table"
        if isinstance(value, list):
            return "a list"
        if isinstance(value, str):
            return json.dumps(value if len(value) <= 60 else value[:57] + "...", ensure_ascii=False)
        return str(value)

    def secret(self, place: str) -> dict[str, str]:
        """Return the variables, with their values, that stand somewhere in the table or key at `place`."""
        texts = [text for where, text in self.written.items() if _within(where, place)]
        names = [match[1] for text in texts for match in _REFERENCE.finditer(text) if match[1]]
        return {name: value for name in names if (value := self.environ.get(name))}

    def faulty(self, place: str) -> bool:
        """Whether there is a mistake in the table at `place` already."""
        return any(_within(mistake.place, place) for mistake in self.mistakes)

    def redact(self, text: str, place: str) -> str:
        """Return text that others wrote about the table at `place`, without the values of its variables."""
        for name, value in self.secret(place).items():
            for form in (value, repr(value)[1:-1], json.dumps(value)[1:-1]):
                text = text.replace(form, f"${{{name}}}")
        return text


def _within(where: str, place: str) -> bool:
    return where == place or where.startswith((f"{place}.", f"{place}#"))


def quantity(kind: type, value: Any) -> Any:
    """Read a duration, a size, a rate or what else a class makes of one value (a Path), for msgspec.

    Raises ValueError when it cannot, or when no clock can wait that long.
    """
    if kind is Duration:
        duration = Duration.parse(value)
        if not duration <= _LONGEST or math.isnan(duration):
            raise ValueError(f"expected a duration of at most 100 years, got {value!r}")
        return duration
    if kind in {Size, Rate}:
        return kind.parse(value)
    return kind(value)


@cache  # to resolve annotations takes a millisecond, for each of perhaps a thousand tables
def _fields(kind: type[msgspec.Struct]) -> Mapping[str, FieldInfo]:
    return types.MappingProxyType({info.encode_name: info for info in fields(kind)})


def describe(kind: Any) -> str:
    """Return what a value of that type looks like, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return describe(arguments[0]) + _bounds(arguments[1:])
    if origin in {Literal, Union, types.UnionType}:
        words = [word for member in _members(kind) for word in _words(member)]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    if origin in _LISTS or kind in _LISTS:
        return "a list"
    if origin is dict or kind is dict or _is_struct(kind):
        return "a table"
    return _SIMPLE.get(kind) or f"a {getattr(kind, '__name__', kind)}"


def _bounds(annotations: tuple[Any, ...]) -> str:
    parts = []
    for meta in annotations:
        for limit, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
            if getattr(meta, limit, None) is not None:
                parts.append(f"{words} {getattr(meta, limit)}")
        if getattr(meta, "pattern", None):
            parts.append(f"matching {meta.pattern}")
        if getattr(meta, "min_length", None):
            parts.append(f"with at least {meta.min_length} of length")
    return f" ({', '.join(parts)})" if parts else ""


def _words(member: Any) -> list[str]:
    if get_origin(member) is Literal:
        return [json.dumps(value) for value in get_args(member)]
    return [] if member is types.NoneType else [describe(member)]


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)


def _choose(kind: Any, value: Any) -> Any:
    """Return the member of a union that a container goes to; anything else is msgspec's to decide."""
    for member in _members(kind):
        if isinstance(value, dict) and (_is_struct(member) or get_origin(member) is dict):
            return member
        if isinstance(value, list) and get_origin(member) in _LISTS:
            return member
    return kind


def _literals(kind: Any) -> list[str]:
    return [
        value
        for member in _members(kind)
        if get_origin(member) is Literal
        for value in get_args(member)
        if isinstance(value, str)
    ]


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
