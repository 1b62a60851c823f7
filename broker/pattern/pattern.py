"""Pattern: does this event match? EventBridge's event patterns, compiled once and asked often; pure.

The language: https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-event-patterns.html. A pattern has the shape
of the event; where the event has a value, the pattern has a list of what it may be. Fields are joined by *and*,
the alternatives of a list by *or*, and so are the patterns in a list called `$or`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from broker.errors import PatternError
from broker.pattern.consistency import satisfied
from broker.pattern.operators import OPERATORS, Choice, Test, choice
from broker.pattern.path import ABSENT, DEEP, Path

_DEEPEST = 100
_MOST_BRANCHES = 1000  # as in EventBridge: combinations that all `$or` lists of a pattern may make

# What may not be a field's name inside `$or`, for then a misplaced operator would pass for a field.
_RESERVED = OPERATORS | {"=", "<", "<=", ">", ">="}


class Branch:
    """One of the ways to match: every field has one of its values."""

    __slots__ = ("_fields", "fields")

    def __init__(self, choices: Mapping[str, Choice]) -> None:
        """Take the choices by the names of their fields."""
        self.fields: tuple[tuple[Path, Choice], ...] = tuple((Path(name), choices[name]) for name in sorted(choices))
        """Path and choice of each field, sorted by name."""
        self._fields: tuple[tuple[Any, Test | None, bool, tuple[Path, Choice]], ...] = tuple(
            (path.look, choice.test, choice.absent, (path, choice)) for path, choice in self.fields
        )

    def matches(self, record: dict[str, Any]) -> bool:
        """Return whether the record has what every field asks for."""
        deep = []
        for look, test, absent, field in self._fields:
            found = look(record)
            if found is ABSENT:
                if not absent:
                    return False
            elif found is DEEP:
                deep.append(field)
            elif test is None:
                return False
            elif type(found) is list:
                if not any(map(test, found)):
                    return False
            elif not test(found):
                return False
        return not deep or satisfied(deep, record)


class Pattern:
    """A compiled pattern."""

    __slots__ = ("branches",)

    def __init__(self, branches: tuple[Branch, ...]) -> None:
        """Take the ways to match; see `compile`."""
        self.branches = branches
        """The event matches if one of these does; without `$or` there is only one."""

    def matches(self, record: dict[str, Any]) -> bool:
        """Return whether the pattern matches an event's record (JSON values as the json module reads them)."""
        for branch in self.branches:  # noqa: SIM110 -- a generator would cost more than the match itself
            if branch.matches(record):
                return True
        return False


def compile(pattern: Mapping[str, Any]) -> Pattern:  # noqa: A001 -- as in re.compile; used as pattern.compile
    """Compile an event pattern. Raises PatternError, which says where and what."""
    return Pattern(tuple(map(Branch, _extend([{}], pattern, "", "", depth=0, within_or=False))))


def _extend(
    branches: list[dict[str, Choice]], pattern: Any, name: str, place: str, *, depth: int, within_or: bool
) -> list[dict[str, Choice]]:
    """Return the branches with the fields of `pattern`, which stands at the field `name`, added to each.

    A field that is there already is replaced: what comes later in the text counts, as in EventBridge.
    """
    at = f"{place}: " if place else ""
    if not isinstance(pattern, Mapping):
        raise PatternError(f"{at}expected an object, got {type(pattern).__name__}")
    if not pattern:
        raise PatternError(f"{at}expected at least one field, got an empty object")
    if depth > _DEEPEST:
        raise PatternError(f"{at}nested more than {_DEEPEST} deep")
    for key, inner in pattern.items():
        spot = f"{place}.{key}" if place else key
        if key == "$or":
            branches = [
                extended
                for number, alternative in _alternatives(inner, spot)
                for extended in _extend(
                    branches, alternative, name, f"{spot}#{number}", depth=depth + 1, within_or=True
                )
            ]
            if len(branches) > _MOST_BRANCHES:
                raise PatternError(f"{spot}: more than {_MOST_BRANCHES} combinations of alternatives")
        elif within_or and key in _RESERVED:
            raise PatternError(f"{spot}: an operator cannot stand here; it goes into the list of a field's values")
        elif isinstance(inner, list):
            added = {f"{name}.{key}" if name else key: choice(inner, spot)}
            branches = [branch | added for branch in branches]
        elif isinstance(inner, Mapping):
            longer = f"{name}.{key}" if name else key
            branches = _extend(branches, inner, longer, spot, depth=depth + 1, within_or=within_or)
        else:
            raise PatternError(f"{spot}: expected a list of values or an object, got {inner!r}")
    return branches


def _alternatives(listed: Any, place: str) -> Iterator[tuple[int, Any]]:
    if not isinstance(listed, list) or len(listed) < 2:
        raise PatternError(f"{place}: expected a list of at least two patterns")
    return enumerate(listed, 1)
