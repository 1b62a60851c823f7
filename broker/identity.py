"""Identity: the name of a worker, from which its own machine can tell whether it still lives."""

from __future__ import annotations

import os
import socket
import sys
from functools import cache
from hashlib import blake2b
from pathlib import Path

_ENDED = {"Z", "X", "x", "zombie", "dead"}
"""States of a process that was killed and that nobody has asked after yet: as Linux and as psutil name them."""

LEASED = "leased"
"""A field of RQ's registration of a worker: it is one of ours, and holds a lease while it lives."""


def of_this_process() -> str:
    """Return a name that no other process has: host, machine, process id and its start."""
    pid = os.getpid()
    return f"{socket.gethostname()}-{_machine()}-{pid}-{_start(pid)}"


def is_dead(name: str) -> bool:
    """Return True when the name is of a process of this machine that has ended; False when nobody here can tell."""
    parts = name.rsplit("-", 3)
    if len(parts) != 4 or parts[1] != _machine() or not parts[2].isdigit():
        return False
    return _start(int(parts[2])) != parts[3]


@cache
def _machine() -> str:
    """Return what tells this machine, this boot of it and this container from all others."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    parts = [
        socket.gethostname(),
        boot.read_text() if boot.exists() else _boot(),
        str(namespace.stat().st_ino) if namespace.exists() else "",
    ]
    return blake2b("\0".join(parts).encode(), digest_size=4).hexdigest()


def _boot() -> str:
    import psutil  # noqa: PLC0415 -- a megabyte

    return str(psutil.boot_time())


def _start(pid: int) -> str:
    """Return what tells a process from all that have had its number; empty when it has ended."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        # proc_pid_stat(5): fields 3 and 22, the latter in ticks since the boot. psutil adds the moment of the boot,
        # which moves when the clock is set: then every worker would take its neighbours for dead.
        state, *_, started = stat.rpartition(")")[2].split()[:20]
        return "" if state in _ENDED else f"{int(started):x}"
    import psutil  # noqa: PLC0415 -- a megabyte

    try:
        process = psutil.Process(pid)
        return "" if process.status() in _ENDED else f"{int(process.create_time() * 100):x}"
    except psutil.NoSuchProcess:
        return ""
