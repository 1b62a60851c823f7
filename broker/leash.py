"""Leash: child processes that do not outlive this one, and orphans that come to it.

Linux keeps both promises in the kernel (prctl(2): PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER). Other systems have
neither: there a child must look after its parent itself, see `follow_parent`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LINUX = sys.platform.startswith("linux")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None) if LINUX else None
"""Loaded here, because a forked child that loads libraries may deadlock."""


def leashed(then: Callable[[], None] | None = None) -> Callable[[], None]:
    """Return a `preexec_fn` with which a child gets SIGTERM when this process dies, however it dies.

    The kernel watches the thread that forks, so call Popen from the main thread. `then` runs in the child as well.
    """
    parent = os.getpid()

    def in_the_child() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:  # it died before the kernel was told
                os._exit(1)
        if then is not None:
            then()

    return in_the_child


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Let the kernel send this process a signal when its parent dies; end it if that has happened already.

    The kernel watches the thread that forked. Where there is no such kernel, nothing is done.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def follow_parent(every: float = 1) -> None:
    """Send this process SIGTERM when its parent dies, where the kernel does not do it."""
    if LINUX:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents die, so that `end_orphans` can find them."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(mine: set[int]) -> None:
    """Collect ended children other than `mine`, which their own Popen objects collect."""
    if not LINUX:
        return
    with suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in mine:
                return
            os.waitpid(ended.si_pid, 0)


def end_orphans(mine: set[int], *, within: float = 2) -> None:
    """Kill every child except `mine`; theirs come to us in turn and are killed as well. Takes `within` seconds at most.

    Needs `adopt_orphans`, and a kernel with /proc/PID/task/TID/children (proc(5)); without it nothing is killed.
    """
    end = time.monotonic() + within
    while (orphans := _children() - mine) and time.monotonic() < end:
        for orphan in orphans:
            with suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
        time.sleep(0.005)
        reap_orphans(mine)


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended meanwhile
            found.update(int(pid) for pid in task.read_text().split())
    return found


def outcome(code: int) -> str:
    """Return how a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
