"""Show an error to a person: one block on stderr, no traceback, and the exit code."""

from __future__ import annotations

import sys

import click

from broker.cli._output import coloured
from broker.errors import BrokerError, ConfigError, StoreRefused


def show(error: Exception) -> int:
    """Print the error and return the exit code: 2 when the configuration is wrong or Redis refuses it, else 1."""
    if isinstance(error, ConfigError):
        _block(_config_lines(error))
        return 2
    if isinstance(error, BrokerError):
        _block(str(error).splitlines())
        if isinstance(error, StoreRefused):
            return 2
    elif type(error).__module__.startswith("redis."):
        _block([f"Redis: {error}"])
    elif isinstance(error, OSError):
        _block([": ".join(map(str, filter(None, (error.filename, error.strerror)))) or str(error)])
    else:
        _block([f"{type(error).__name__}: {error}", "This is a fault of broker itself; BROKER_DEBUG=1 shows where."])
    return 1


def _config_lines(error: ConfigError) -> list[str]:
    files = {mistake.file for mistake in error.mistakes}
    count = len(error.mistakes)
    if count == 1 or len(files) > 1:
        return [str(mistake) for mistake in error.mistakes]
    lines = [f"{files.pop()} has {count} mistakes"]
    for mistake in error.mistakes:
        lines.append(f"{mistake.place}: {mistake.problem}" if mistake.place else mistake.problem)
        if mistake.hint:
            lines.append(f"  {mistake.hint}")
    return lines


def _block(lines: list[str]) -> None:
    first, *rest = lines or [""]
    head = click.style("Error: ", fg="red", bold=True, reset=True)
    click.echo(head + first, file=sys.stderr, color=None if coloured() else False)
    for line in rest:
        click.echo(f"  {line}", file=sys.stderr)
