"""Given: what people write on a command line: JSON, durations, the names of what is configured."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from broker.errors import EventError
from broker.names import nearest
from broker.quantity import Duration


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


class DurationType(click.ParamType[Duration]):
    """A length of time: `30s`, `1h30m`, or a number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Duration:
        """Return the duration; a value that is none is wrong usage."""
        try:
            return Duration.parse(float(value) if str(value).replace(".", "", 1).isdecimal() else value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = DurationType()


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises EventError, with the place of the mistake."""
    try:
        return _decode(text.decode() if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        raise EventError(f"not UTF-8: byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise EventError(f"not JSON: {error.msg} at {line}column {error.colno}{_advice(error.doc)}") from None
    except ValueError as error:
        raise EventError(f"not JSON: {error}") from None
    except RecursionError:
        raise EventError("JSON nested too deeply") from None


def read_json(given: str) -> Any:
    """Return the JSON that an argument stands for: itself, `@FILE`, or `-` for standard input.

    Raises EventError, OSError.
    """
    if given == "-":
        return parse_json(sys.stdin.buffer.read())
    if given.startswith("@"):
        path = Path(given[1:])
        try:
            return parse_json(path.read_bytes())
        except EventError as error:
            raise EventError(f"{path}: {error}") from None
    return parse_json(given)


def check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Take a name that is not configured for wrong usage, and name the nearest one that is."""
    known = list(known)
    if name not in known:
        hint = nearest(name, known) or (f"known: {', '.join(known)}" if known else f"there is no {what} at all")
        raise click.UsageError(f"there is no {what} {name!r}; {hint}")


def confirm(question: str) -> None:
    """Go on only if a person says yes; where there is none to ask, the command must say so itself."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to say so: add --yes")
    click.confirm(question, abort=True, err=True)


def _advice(text: str) -> str:
    """Return what to do when a shell has taken away the quotes, or somebody meant a text."""
    return f"; a text needs quotes: '\"{text}\"'" if text.isidentifier() else ""
