"""Scripts: the text of the four, as Redis gets it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_SHARED = {
    "publish": ("common", "tracking", "orders"),
    "claim": ("common",),
    "settle": ("common", "tracking", "orders", "dependents"),
    "recover": ("common", "tracking"),
}

_CONSTANTS = re.compile(r"^local ([A-Z_]+(?:, [A-Z_]+)*) = (.+?)(?: +--.*)?$", re.MULTILINE)
_VALUE = re.compile(r"'[^']*'|\d+(?: \* \d+)*")
_TOKEN = re.compile(r"--[^\n]*|'(?:[^'\\\n]|\\.)*'|(?<![\w.])[A-Z_]+(?!\w)")


def scripts() -> Iterator[tuple[str, str]]:
    """Yield name and text of each: what it shares with others, then its own, with the constants' values in it.

    At each call Redis runs a script from its first line, and makes its functions anew; what a function holds of the
    lines before it is looked for among all that others hold. So names for values take more time than all else there.
    """
    folder = Path(__file__).parent
    for name, shared in _SHARED.items():
        yield name, with_values("".join((folder / f"{part}.lua").read_text() for part in (*shared, name)))


def with_values(text: str) -> str:
    """Return a script with the values of its constants in their place; each line keeps its number."""
    values: dict[str, str] = {}

    def note(line: re.Match[str]) -> str:
        names, given = line[1].split(", "), _VALUE.findall(line[2])
        if ", ".join(given) != line[2]:
            return line[0]  # not known before it runs
        values.update(zip(names, given, strict=True))
        return ""

    return _TOKEN.sub(lambda token: _value(token[0], values), _CONSTANTS.sub(note, text))


def _value(token: str, values: Mapping[str, str]) -> str:
    if token.startswith("--"):
        return ""
    value = values.get(token, token)
    return value if token == value or value.startswith("'") else f"({value})"
