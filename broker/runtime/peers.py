"""Peers: which process is at the other end of a connection on this machine.

The AWS Lambda Runtime API has no secret, so anybody on the machine could fetch a function's events. Linux says in /proc
whose a socket is; on other systems nobody is kept away. It runs inside environments: the standard library alone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from broker.runtime import kernel, limits


def is_ours(connection: socket.socket, environment: str) -> bool:
    """Return whether a process of this environment, which this process leads, has made the connection."""
    if not kernel.LINUX:
        return True
    found = _socket_of(connection.getpeername()[1], connection.getsockname()[1])
    if found is None:
        return False
    uid, inode = found
    if uid != os.geteuid():
        return False
    own = os.getpid()
    below = limits.descendants(own)
    return _holds(below, inode) or _holds((pid for pid in limits.members(environment, own) if pid not in below), inode)


def _socket_of(port: int, ours: int) -> tuple[int, str] | None:
    """Return user and inode of the socket at `port` that is connected to our port."""
    for table in ("tcp", "tcp6"):
        with Path(f"/proc/self/net/{table}").open() as lines:
            for line in lines:
                fields = line.split(maxsplit=10)
                if (fields[1][-4:], fields[2][-4:]) == (f"{port:04X}", f"{ours:04X}"):
                    return int(fields[7]), fields[9]
    return None


def _holds(pids: Iterable[int], inode: str) -> bool:
    """Return whether one of the processes has the socket open."""
    wanted = f"socket:[{inode}]"
    for pid in pids:
        try:
            descriptors = os.scandir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for entry in descriptors:
            try:
                if os.readlink(entry.path) == wanted:  # noqa: PTH115 -- thousands of them
                    return True
            except OSError:
                continue
    return False
