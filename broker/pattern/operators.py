"""Operators: what a pattern may ask of one value; `[5, {"prefix": "a"}]` becomes a test.

The operators and their limits are EventBridge's:
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html
"""

from __future__ import annotations

import ipaddress
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from broker.errors import PatternError
from broker.names import nearest

Test = Callable[[Any], bool]
"""Says whether a plain value (string, number, boolean, null) is one that the pattern asks for."""

_MOST_STARS = 5  # EventBridge calls `*:*:*:*:*:event-bus/*` too complex


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a field may be: a value that passes the test, or absent if that is allowed."""

    test: Test | None
    """None when only absence will do."""
    absent: bool
    exact: frozenset[Any] | None
    """The identities of the only values that pass, when there are only these: see `identity`."""


def identity(value: Any) -> Any:
    """Return what is equal for equal JSON values only: 5 and 5.0 are the same, 1 and true are not."""
    if type(value) is str:
        return value
    return (value is None or type(value) is bool, value)


def choice(alternatives: list[Any], place: str) -> Choice:
    """Compile the list of alternatives of one field. Raises PatternError."""
    if not alternatives:
        raise PatternError(f"{place}: expected at least one value, got an empty list")
    exact: set[Any] = set()
    tests: list[Test] = []
    absent = False
    for alternative in alternatives:
        if isinstance(alternative, dict):
            name, operand = _single(alternative, place)
            if name == "exists":
                if not isinstance(operand, bool):
                    raise PatternError(f"{place}.exists: expected true or false, got {_show(operand)}")
                if not operand:
                    absent = True
                    continue
            tests.append(_OPERATORS[name](operand, f"{place}.{name}"))
        elif alternative is None or isinstance(alternative, str | bool) or _is_number(alternative):
            exact.add(identity(alternative))
        else:
            raise PatternError(
                f"{place}: expected a string, a number, true, false, null or an operator such as "
                f'{{"prefix": "a"}}, got {_show(alternative)}'
            )
    if not exact and not tests:
        return Choice(test=None, absent=True, exact=None)
    closed = frozenset(exact) if exact and not tests and not absent else None
    if exact:
        tests.insert(0, _exact(frozenset(exact)))
    return Choice(test=tests[0] if len(tests) == 1 else _any(tests), absent=absent, exact=closed)


def _any(tests: list[Test]) -> Test:
    return lambda value: any(test(value) for test in tests)


def _exact(known: frozenset[Any]) -> Test:
    if all(isinstance(each, str) for each in known):
        return known.__contains__
    return lambda value: identity(value) in known


def _single(expression: dict[str, Any], place: str) -> tuple[str, Any]:
    if len(expression) != 1:
        raise PatternError(f"{place}: expected one operator in braces, got {len(expression)}")
    ((name, operand),) = expression.items()
    if name not in _OPERATORS:
        hint = nearest(name, _OPERATORS) or f"known: {', '.join(_OPERATORS)}"
        raise PatternError(f"{place}: unknown operator {_show(name)} ({hint})")
    return name, operand


def _string(operand: Any, place: str) -> str:
    if not isinstance(operand, str):
        raise PatternError(f"{place}: expected a string, got {_show(operand)}")
    return operand


def _fold(text: str) -> str:
    # Letter by letter: str.lower() looks at the neighbours of a sigma, so that a prefix would not stay one.
    return text.lower() if text.isascii() else "".join([letter.lower() for letter in text])


def _folded(operand: Any, place: str) -> str:
    if isinstance(operand, dict) and list(operand) == ["equals-ignore-case"]:
        return _fold(_string(operand["equals-ignore-case"], f"{place}.equals-ignore-case"))
    raise PatternError(f'{place}: expected a string or {{"equals-ignore-case": "..."}}, got {_show(operand)}')


def _prefix(operand: Any, place: str) -> Test:
    if isinstance(operand, str):
        return lambda value: type(value) is str and value.startswith(operand)
    folded = _folded(operand, place)
    return lambda value: type(value) is str and _fold(value).startswith(folded)


def _suffix(operand: Any, place: str) -> Test:
    if isinstance(operand, str):
        return lambda value: type(value) is str and value.endswith(operand)
    folded = _folded(operand, place)
    return lambda value: type(value) is str and _fold(value).endswith(folded)


def _equals_ignore_case(operand: Any, place: str) -> Test:
    folded = _fold(_string(operand, place))
    return lambda value: type(value) is str and _fold(value) == folded


def _exactly(operand: Any, place: str) -> Test:
    return _exact(frozenset({_string(operand, place)}))


def _wildcard(operand: Any, place: str) -> Test:
    """Compile `a*b*c` to a chain of searches; as each starts where the last one ended, the time is linear."""
    first, *rest = _pieces(_string(operand, place), place)
    if not rest:
        return lambda value: type(value) is str and value == first
    *middle, last = rest

    def test(value: Any) -> bool:
        if type(value) is not str or not value.startswith(first):
            return False
        start, end = len(first), len(value) - len(last)
        for piece in middle:
            found = value.find(piece, start, end)
            if found < 0:
                return False
            start = found + len(piece)
        return start <= end and value.endswith(last)

    return test


def _pieces(text: str, place: str) -> list[str]:
    r"""Split at each `*` that is not escaped; `\*` and `\\` stand for themselves."""
    pieces, letters = [""], iter(text)
    starred = False
    for letter in letters:
        if letter == "*":
            if starred:
                raise PatternError(f"{place}: two * in a row in {_show(text)}")
            pieces.append("")
        elif letter == "\\":
            escaped = next(letters, "")
            if escaped not in {"*", "\\"}:
                raise PatternError(f"{place}: a backslash goes before * or another backslash in {_show(text)}")
            pieces[-1] += escaped
        else:
            pieces[-1] += letter
        starred = letter == "*"
    if len(pieces) - 1 > _MOST_STARS:
        raise PatternError(f"{place}: more than {_MOST_STARS} * in {_show(text)}")
    return pieces


def _anything_but(operand: Any, place: str) -> Test:
    if isinstance(operand, dict):
        if len(operand) != 1 or (name := next(iter(operand))) not in _NEGATABLE:
            raise PatternError(f"{place}: expected one of {', '.join(_NEGATABLE)} in braces, got {_show(operand)}")
        inner, place = operand[name], f"{place}.{name}"
        texts = [_string(text, place) for text in (inner if isinstance(inner, list) else [inner])]
        if not texts or (name in {"prefix", "suffix"} and "" in texts):
            raise PatternError(f"{place}: expected a string that is not empty, or a list of such")
        refused = _any([_NEGATABLE[name](text, place) for text in texts])
    else:
        values = operand if isinstance(operand, list) else [operand]
        if not values or not (all(isinstance(value, str) for value in values) or all(map(_is_number, values))):
            raise PatternError(f"{place}: expected strings only or numbers only, got {_show(operand)}")
        refused = _exact(frozenset(map(identity, values)))
    return lambda value: not refused(value)


def _numeric(operand: Any, place: str) -> Test:
    if not isinstance(operand, list):
        raise PatternError(f'{place}: expected a list such as [">", 0, "<=", 5], got {_show(operand)}')
    signs, bounds = operand[::2], operand[1::2]
    if [*map(str, signs)] not in _COMPARISONS or len(bounds) != len(signs):
        raise PatternError(
            f"{place}: expected =, >, >=, < or <= and a number, or > or >= and a number, then < or <= "
            f"and a number; got {_show(operand)}"
        )
    if not all(map(_is_number, bounds)):
        raise PatternError(f"{place}: expected numbers, got {_show(bounds)}")
    if signs == ["="]:
        return _exact(frozenset(map(identity, bounds)))
    if len(bounds) == 2 and bounds[0] >= bounds[1]:
        raise PatternError(f"{place}: the lower bound {bounds[0]} is not below the upper bound {bounds[1]}")
    low = bounds[0] if signs[0].startswith(">") else -math.inf
    high = bounds[-1] if signs[-1].startswith("<") else math.inf
    with_low, with_high = ">" not in signs, "<" not in signs

    def test(value: Any) -> bool:
        if type(value) is not int and type(value) is not float:
            return False
        return (low <= value if with_low else low < value) and (value <= high if with_high else value < high)

    return test


def _exists(operand: Any, place: str) -> Test:
    del operand, place  # `choice` has looked at them; whatever value there is, it exists
    return lambda _: True


def _cidr(operand: Any, place: str) -> Test:
    text = _string(operand, place)
    address, _, bits = text.partition("/")
    try:
        network = ipaddress.ip_network((ipaddress.ip_address(address), int(bits)), strict=False)
    except ValueError:
        raise PatternError(f'{place}: expected a block of addresses such as "10.0.0.0/24", got {_show(text)}') from None

    def test(value: Any) -> bool:
        if type(value) is not str:
            return False
        try:
            return ipaddress.ip_address(value) in network
        except ValueError:
            return False

    return test


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


_COMPARISONS = [["="], [">"], [">="], ["<"], ["<="]]
_COMPARISONS += [[low, high] for low in (">", ">=") for high in ("<", "<=")]

_OPERATORS: dict[str, Callable[[Any, str], Test]] = {
    "prefix": _prefix,
    "suffix": _suffix,
    "equals-ignore-case": _equals_ignore_case,
    "wildcard": _wildcard,
    "anything-but": _anything_but,
    "numeric": _numeric,
    "exists": _exists,
    "cidr": _cidr,
    "exactly": _exactly,
}

_NEGATABLE = {name: _OPERATORS[name] for name in ("prefix", "suffix", "equals-ignore-case", "wildcard")}

OPERATORS = frozenset(_OPERATORS)
