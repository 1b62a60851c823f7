"""Identity: the name of a worker, from which its own machine can tell whether it still lives."""

from __future__ import annotations

import os
import socket
import sys
from functools import cache
from hashlib import blake2b
from pathlib import Path

import psutil


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
        boot.read_text() if boot.exists() else str(psutil.boot_time()),
        str(namespace.stat().st_ino) if namespace.exists() else "",
    ]
    return blake2b("\0".join(parts).encode(), digest_size=4).hexdigest()


def _start(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:  # killed, and nobody has asked after it yet
            return ""
        if sys.platform == "linux":
            # proc_pid_stat(5), field 22: ticks since boot. psutil adds the moment of the boot, which moves when the
            # clock is set: then every worker would take its neighbours for dead.
            return f"{int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]):x}"
        return f"{int(process.create_time() * 100):x}"
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return ""
