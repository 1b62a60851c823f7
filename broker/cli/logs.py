"""`broker logs`: what functions printed, and what they print now."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from broker.cli._given import DURATION, check_name
from broker.cli._output import clean, coloured
from broker.cli._project import Project, pass_project

if TYPE_CHECKING:
    from redis import Redis

    from broker.quantity import Duration
    from broker.tail import Logged

LEVELS = ("debug", "info", "warning", "error", "critical")

_PALETTE = ("cyan", "green", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta", "bright_blue")


class _Pattern(click.ParamType[re.Pattern[str]]):
    name = "regular expression"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> re.Pattern[str]:
        try:
            return re.compile(value)
        except re.error as error:
            self.fail(f"{value!r} is no regular expression: {error}", param, ctx)


@click.command()
@click.argument("names", metavar="[FUNCTION]...", nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is printed from now on.")
@click.option("--since", type=DURATION, help="Begin so long ago: 10m. By default with the oldest line kept.")
@click.option("--grep", "pattern", metavar="RE", type=_Pattern(), help="Only lines in which this is found.")
@click.option("--invocation", metavar="ID", default="", help="Only this one's; how its id begins is enough.")
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), help="Only lines of this level and above.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@pass_project
def logs(
    project: Project,
    *,
    names: tuple[str, ...],
    follow: bool,
    since: Duration | None,
    pattern: re.Pattern[str] | None,
    invocation: str,
    level: str | None,
    as_json: bool,
) -> None:
    """Show what functions print.

    That is of all functions, or of those that are named.
    """
    functions = _functions(project, names)
    from broker.tail import Tail, Wanted  # noqa: PLC0415 -- Redis' library loads slowly; help does without

    tail = Tail(
        project.redis,
        functions,
        since_ms=int((time.time() - since) * 1000) if since is not None else 0,
        wanted=Wanted(invocation=invocation, pattern=pattern, level=level or ""),
    )
    show = _as_json if as_json else _for_people(functions) if sys.stdout.isatty() else _plain
    _print(tail.written(), show)
    if follow and functions:
        for lines in tail.follow():
            _print(lines, show)


def _functions(project: Project, names: tuple[str, ...]) -> list[str]:
    """Return the functions that are meant; one that left the configuration lives on in its log stream."""
    configured = list(project.functions)
    for name in names:
        if name not in configured and not _has_stream(project.redis, name):
            check_name("function", name, configured)
    return list(dict.fromkeys(names)) or configured


def _has_stream(client: Redis, name: str) -> bool:
    from broker.logs import key  # noqa: PLC0415 -- as above

    return bool(client.exists(key(name)))


def _print(lines: Iterable[Logged], show: Callable[[Logged], str]) -> None:
    for line in lines:
        sys.stdout.write(f"{show(line)}\n")
    sys.stdout.flush()


def _plain(line: Logged) -> str:
    return f"{_time(line)} {line.function} {line.invocation[:8]} {line.text}"


def _as_json(line: Logged) -> str:
    return json.dumps(
        {
            "time": _time(line),
            "function": line.function,
            "invocation": line.invocation,
            "attempt": line.attempt,
            "level": line.level,
            "text": line.text,
        }
    )


def _for_people(functions: list[str]) -> Callable[[Logged], str]:
    """Return what makes a line for a terminal: local time, a colour for each function and for what is grave."""
    width = max(map(len, functions), default=0)
    colours = {name: _PALETTE[number % len(_PALETTE)] for number, name in enumerate(functions)}

    def show(line: Logged) -> str:
        moment = datetime.fromtimestamp(line.time_ms / 1000, UTC).astimezone()
        head = click.style(f"{moment:%m-%d %H:%M:%S}.{line.time_ms % 1000:03d}", dim=True)
        name = click.style(line.function.ljust(width), fg=colours[line.function])
        return f"{head} {name} {click.style(line.invocation[:8], dim=True)} {_coloured(line)}"

    return show if coloured() else lambda line: click.unstyle(show(line))


def _coloured(line: Logged) -> str:
    text = clean(line.text)
    if not line.level:
        return (
            click.style(text, dim=True) if text.startswith(("START RequestId", "END RequestId", "REPORT R")) else text
        )
    from broker.tail import rank  # noqa: PLC0415 -- loaded by now

    grave = rank(line.level)
    return click.style(text, fg="red" if grave >= 4 else "yellow" if grave == 3 else None, dim=grave == 1)


def _time(line: Logged) -> str:
    moment = datetime.fromtimestamp(line.time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{line.time_ms % 1000:03d}Z"
