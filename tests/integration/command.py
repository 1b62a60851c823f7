"""The command `broker`, run as people run it: as a process of its own, in the folder of a project."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ORDERS = '[sources.orders]\nkind = "queue"\n[[triggers]]\nsource = "orders"\nfunction = "f"\n'
"""Tables that make the function `f` serve the queue `orders`."""


def environment(**more: str) -> dict[str, str]:
    """Return the variables of this process without those that steer the command."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("BROKER_", "RQ_"))} | more


def broker(root: Path, *arguments: str, given: str | bytes = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, with `given` on its standard input; it must end with that exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "broker", *arguments],
        cwd=root,
        env=environment(),
        input=given.encode() if isinstance(given, str) else given,
        capture_output=True,
        timeout=60,
        check=False,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == code, f"exit code {done.returncode}\n{out}\n{err}"
    assert "fault of broker itself" not in err
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def started(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the command and leave it running; its three streams are pipes of text."""
    return subprocess.Popen(
        [sys.executable, "-m", "broker", *arguments],
        cwd=root,
        env=environment(PYTHONUNBUFFERED="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
