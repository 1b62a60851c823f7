"""Any program: a path such as `scripts/convert.sh`, or a line for the shell; it is run for each attempt."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

from broker.names import nearest
from broker.quantity import Size
from broker.runtimes import Speech

SPEECH: Final[Speech] = "exec"
LANGUAGE: Final = ""
LEAST_MEMORY: Final = Size(16 << 20)

_PLAIN = re.compile(r"[\w@%+:,./-]+")
"""A word that means itself to the shell."""

_BUILTINS = frozenset(
    {".", ":", "cd", "command", "eval", "exec", "exit", "export", "read", "set", "source", "trap", "umask"}
)
"""What only the shell has; POSIX.1-2024, 2.15 and 1.7."""


def problem(handler: str, root: Path) -> str:
    """Return what is wrong with the program, when it is a file of the project; or nothing."""
    words = handler.split()
    if not words:
        return "expected a program or a line for the shell, got nothing"
    first = words[0]
    if not _PLAIN.fullmatch(first) or "/" not in first:
        return ""
    path = root / first
    if path.is_file():
        return "" if os.access(path, os.X_OK) else f"{first} may not be executed; `chmod +x {first}`"
    beside = [str(Path(first).parent / each.name) for each in path.parent.glob("*")]
    hint = nearest(first, beside)
    return f"there is no file {first} in {root}" + (f"; {hint}" if hint else "")


def argv(handler: str, root: Path, memory: int) -> list[str]:
    """Return the program with its arguments, or the shell with the line when it needs one."""
    del memory
    words = handler.split()
    if words[0] in _BUILTINS or not all(_PLAIN.fullmatch(word) for word in words):
        return ["/bin/sh", "-c", handler]
    first, *rest = words
    return [str(root / first) if "/" in first else first, *rest]


def inner(handler: str) -> str:
    """Return what goes into _HANDLER."""
    return handler


def missing(handler: str, root: Path, path: str) -> str:
    """Return that the program is not found, if it is a plain name; the shell has words of its own."""
    first = argv(handler, root, 0)[0]
    if "/" in first or shutil.which(first, path=path or os.defpath):
        return ""
    return f"{first} is not found; install it, or write its path"
