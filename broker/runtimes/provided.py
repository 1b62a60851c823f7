"""Programs that speak the AWS Lambda Runtime API: `bin/bootstrap`, `python3 -m awslambdaric app.handler`.

`bootstrap:function.handler` runs ./bootstrap and puts `function.handler` into _HANDLER, which is where the bootstraps
of AWS' own examples look for it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from broker.quantity import Size
from broker.runtimes import Speech
from broker.runtimes import exec as programs

SPEECH: Final[Speech] = "api"
LANGUAGE: Final = ""
LEAST_MEMORY: Final = Size(16 << 20)

_NAMED = re.compile(r"([^\s:]+):([^\s:]+)")


def parts(handler: str) -> tuple[str, str]:
    """Return the line that runs the program, and what goes into _HANDLER."""
    if match := _NAMED.fullmatch(handler):
        place = match[1]
        return (place if "/" in place else f"./{place}"), match[2]
    return (handler if handler != "bootstrap" else "./bootstrap"), handler


def problem(handler: str, root: Path) -> str:
    """Return what is wrong with the program, when it is a file of the project; or nothing."""
    return programs.problem(parts(handler)[0], root)


def argv(handler: str, root: Path, memory: int) -> list[str]:
    """Return the program with its arguments, or the shell with the line when it needs one."""
    return programs.argv(parts(handler)[0], root, memory)


def inner(handler: str) -> str:
    """Return what goes into _HANDLER."""
    return parts(handler)[1]


def missing(handler: str, root: Path, path: str) -> str:
    """Return that the program is not found, if so."""
    return programs.missing(parts(handler)[0], root, path)
