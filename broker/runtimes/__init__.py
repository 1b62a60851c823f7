"""Runtimes: what is special about each runtime's environments, a file a runtime.

`runtime = "nodejs"` in config.toml is `nodejs.py` here; no other place has to know of a new one but the choices of
`Function.runtime`. What runs inside environments is in broker/runtime/inside/, or beside the file in its own language.
"""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

if TYPE_CHECKING:
    from broker.quantity import Size

Speech = Literal["python", "frames", "api", "exec"]
"""How an environment's first process goes on once it is confined (broker/runtime/inside/become.py).

`python` imports the handler, `frames` becomes another program that does, `api` serves the AWS Lambda Runtime API to
one, `exec` runs a program for each attempt.
"""


class Runtime(Protocol):
    """What a file here has to define."""

    @property
    def SPEECH(self) -> Speech:  # noqa: N802 -- a constant of a module
        """How its environments go on."""

    @property
    def LANGUAGE(self) -> str:  # noqa: N802 -- a constant of a module
        """AWS Lambda's identifier, for AWS_EXECUTION_ENV, which only bundled languages have."""

    @property
    def LEAST_MEMORY(self) -> Size:  # noqa: N802 -- a constant of a module
        """What its environments need to start at all."""

    def problem(self, handler: str, root: Path) -> str:
        """Return what is wrong with a handler's name, without running anything of it; or nothing."""

    def argv(self, handler: str, root: Path, memory: int) -> list[str]:
        """Return the program that an environment runs, and its arguments; none for Python, which is there.

        `{TMPDIR}` in them is the environment's folder for temporary files.
        """

    def inner(self, handler: str) -> str:
        """Return what goes into the variable _HANDLER."""

    def missing(self, handler: str, root: Path, path: str) -> str:
        """Return which program is not found on `path` and what to install, in one sentence; or nothing."""


def find(name: str) -> Runtime:
    """Return a runtime by its name in config.toml."""
    return cast("Runtime", importlib.import_module(f"broker.runtimes.{name}"))


def shipped() -> set[str]:
    """Return the names of all runtimes."""
    return {path.stem for path in Path(__file__).parent.glob("[a-z]*.py")}


def not_found(program: str, path: str, install: str) -> str:
    """Return the sentence for a program that is not found, or nothing when it is."""
    return "" if shutil.which(program, path=path or os.defpath) else f"{program} is not found; {install}"
