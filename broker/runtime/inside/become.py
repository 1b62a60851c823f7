"""Become: what a confined child of the nursery turns into: the Python bootstrap, another program, or a go-between.

Which of them it is stands in broker/runtimes/. It runs inside the environment, so it needs nothing beyond the standard
library; what only some environments need is imported by those.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from broker.runtime.inside import bootstrap

CONTROL, OUTPUT = 3, 4
"""Where a program finds its two lines. Node closes such low ones in its children by itself, and Java all."""

TOLD = ("handler", "root", "token", "born", "arn", "max_result")
"""What a program is told of the spec, as its last argument."""

RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""What Python ignores; a program would inherit that."""


class Runs(Protocol):
    """An environment."""

    def run(self) -> None:
        """Run until the worker hangs up."""


def become(spec: Mapping[str, Any], control: int, output: int) -> Runs:
    """Return what is to run in this process; does not return when that is another program."""
    gc.enable()
    if spec["speech"] == "frames":
        _replace(spec, control, output)
    if spec["speech"] == "exec":
        from broker.runtime.inside.program import ProgramEnvironment  # noqa: PLC0415

        return ProgramEnvironment(spec, control, output)
    if spec["speech"] == "api":
        from broker.runtime.inside.api import ApiEnvironment  # noqa: PLC0415

        return ApiEnvironment(spec, control, output)
    more = spec["variables"].get("PYTHONPATH", "")
    sys.path[:0] = [spec["root"], *filter(None, more.split(os.pathsep))]
    sys.argv = [spec["handler"]]
    return bootstrap.Environment(spec, socket.socket(fileno=control), output)


def _replace(spec: Mapping[str, Any], control: int, output: int) -> NoReturn:
    """Replace this process by the runtime's program, which speaks frames itself."""
    for number in RESTORED:
        signal.signal(number, signal.SIG_DFL)
    os.dup2(control, CONTROL)
    os.dup2(output, OUTPUT)
    told = json.dumps({key: spec[key] for key in TOLD})
    program, *arguments = (word.replace("{TMPDIR}", os.environ["TMPDIR"]) for word in spec["argv"])
    try:
        os.execvp(program, [program, *arguments, told])  # noqa: S606 -- to become it is the point
    except OSError as error:
        from broker.runtime.inside.wire import Wire  # noqa: PLC0415 -- only for those that fail

        Wire(spec, control, output).refuse("InitFailed", f"{program} cannot be run: {error.strerror}")
        os._exit(1)
