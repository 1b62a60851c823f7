"""Limits: how much memory the processes of an environment use, which processes those are, and how they are ended.

It reads Linux's /proc (proc(5)); on other systems there is the process group and nothing else. The worker and the
nursery use it, so it needs nothing beyond the standard library.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

MARK = "BROKER_ENVIRONMENT"
"""The variable that holds the environment's id, in each of its processes."""

HEADROOM = 512 << 20
"""Bytes that a process may reserve beyond the function's memory.

What is reserved is not yet used; every thread reserves 8 MB for its stack. The real limit is on what the processes
occupy and is looked at ten times a second; this one stops what would take gigabytes between two looks.
"""

_LINUX = sys.platform == "linux"
_PAGE = resource.getpagesize()
_PROC = Path("/proc")
_GONE = "ZX"  # zombie, dead


def confine(memory: int) -> None:
    """Set the limits of this process: no core dumps, nothing reserved far beyond `memory` bytes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _LINUX:  # elsewhere RLIMIT_DATA does not cover what malloc maps
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = memory + HEADROOM if hard == resource.RLIM_INFINITY else min(memory + HEADROOM, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def family(pid: int) -> tuple[list[int], int]:
    """Return a process with its descendants, and how many threads they have together."""
    pids, tasks = [pid], 0
    for one in pids:  # it grows
        threads = _threads(one)
        tasks += len(threads)
        pids += _children(one, threads)
    return pids, tasks


def memory_of(pids: Sequence[int], limit: int) -> int:
    """Return how many bytes the processes occupy together.

    Forked processes share pages. Only when the sum is beyond `limit` are those counted once, since that takes long.
    """
    occupied = sum(map(_resident, pids))
    if occupied > limit and len(pids) > 1:
        return sum(map(_proportional, pids))
    return occupied


def children(pid: int) -> list[int]:
    """Return the children of a process, also those that have ended and were not waited for."""
    return _children(pid, _threads(pid))


def descendants(pid: int) -> list[int]:
    """Return the children of a process, their children, and so on."""
    found = children(pid)
    for one in found:  # it grows
        found += children(one)
    return found


def members(environment: str, session: int) -> list[int]:
    """Return the living processes of an environment: those of its session, and those that bear its mark."""
    mark = f"{MARK}={environment}".encode()
    return [
        pid
        for pid, state, sid in _processes()
        if state not in _GONE and (sid == session or mark in _read(f"{pid}/environ"))
    ]


def exiting(pids: Iterable[int]) -> bool:
    """Return whether one of the processes is on its way out: its memory is gone already, it itself is not."""
    return any(_read(f"{pid}/statm").startswith(b"0 ") and _state(pid) not in _GONE for pid in pids)


def end_members(environment: str, session: int, *, within: float = 1) -> None:
    """Kill an environment's processes until none is left, for `within` seconds at most."""
    end = time.monotonic() + within
    kill_group(session)
    while (left := members(environment, session)) and time.monotonic() < end:
        kill(left)
        time.sleep(0.002)


def kill(pids: Iterable[int]) -> None:
    """Kill processes; one that is gone is as good as killed."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def kill_group(leader: int) -> None:
    """Kill a process and its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    kill([leader])  # it may not lead a group yet


def _processes() -> Iterator[tuple[int, str, int]]:
    """Yield number, state and session of every process."""
    if not _LINUX:
        return
    for entry in os.scandir(_PROC):
        if entry.name.isdigit() and (stat := _read(f"{entry.name}/stat")):
            # The program's name stands in parentheses and may hold anything, so count from the last one.
            state, _, _, session, _ = stat[stat.rindex(b")") + 1 :].split(None, 4)
            yield int(entry.name), state.decode(), int(session)


def _state(pid: int) -> str:
    stat = _read(f"{pid}/stat")
    return stat[stat.rindex(b")") + 2 :][:1].decode() if stat else _GONE[0]


def _threads(pid: int) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(_PROC / str(pid) / "task")]
    except OSError:
        return []


def _children(pid: int, threads: Iterable[str]) -> list[int]:
    return [int(child) for thread in threads for child in _read(f"{pid}/task/{thread}/children").split()]


def _resident(pid: int) -> int:
    fields = _read(f"{pid}/statm").split()
    return int(fields[1]) * _PAGE if fields else 0


def _proportional(pid: int) -> int:
    for line in _read(f"{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) << 10
    return 0


def _read(name: str) -> bytes:
    """Return a file of /proc; nothing when the process is gone or somebody else's."""
    try:
        return (_PROC / name).read_bytes()
    except OSError:
        return b""
