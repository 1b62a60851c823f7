"""The command line: finds a command's file, gives it `--config`, and turns errors into exit codes.

Exit codes: 0 done, 1 the function or check failed, 2 wrong usage or configuration, 130 Ctrl-C.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from broker.cli import _errors
from broker.cli._output import coloured

COMMANDS = {
    "up": "up",
    "host": "up",
    "worker": "up",
    "init": "init",
    "check": "check",
    "invoke": "invoke",
    "emit": "emit",
    "push": "push",
    "logs": "logs",
    "runs": "runs",
    "show": "runs",
    "dead": "dead",
    "deploy": "deploy",
    "versions": "versions",
    "alias": "versions",
    "rollback": "versions",
    "undeploy": "versions",
    "layers": "layers",
    "usage": "usage",
    "status": "status",
    "audit": "status",
}
"""Command -> the file of this package that has it, under the same name; in the order in which help lists them.

A file is imported when its command is used: each command starts as fast as what it needs.
"""


class Frame(click.Group):
    """The command `broker`; its commands are in the files that COMMANDS names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of COMMANDS."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's file."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        _take_config(command)
        return command


def _remember(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta["broker.config"] = value  # shared with all commands of this line; see `Project`


def _config_option() -> click.Option:
    return click.Option(
        ["-c", "--config"],
        metavar="PATH",
        help="The configuration; else $BROKER_CONFIG, else ./config.toml.",
        expose_value=False,
        callback=_remember,
    )


def _take_config(command: click.Command) -> None:
    """Let `--config` stand after every command as well, not only before."""
    if not any(parameter.name == "config" for parameter in command.params):
        command.params.append(_config_option())
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _take_config(inner)


@click.command(
    cls=Frame,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[_config_option()],
)
@click.version_option(package_name="broker", message="broker %(version)s")
@click.pass_context
def broker(ctx: click.Context) -> None:
    """Events from files, schedules, queues and webhooks run your functions, and nothing gets lost.

    Start with `broker init`, then `broker up`.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _open_streams() -> None:
    """Open what the caller has closed of the standard streams: no socket is to get their numbers, no print to fail."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 -- until the process ends
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code; a command returns its own, or None for 0."""
    _open_streams()
    try:
        colour = None if coloured() else False  # None: on a terminal
        code: Any = broker.main(arguments, prog_name="broker", standalone_mode=False, color=colour)
        sys.stdout.flush()  # here, where a reader that has gone is no fault
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what the interpreter flushes at its end
        return 1
    except Exception as error:
        if os.environ.get("BROKER_DEBUG"):
            raise
        return _errors.show(error)
    return code if isinstance(code, int) else 0
