"""Peers: which process is at the other end of a connection on this machine.

The AWS Lambda Runtime API has no secret, so anybody on the machine could fetch a function's events. Linux says in /proc
whose a socket is; on other systems nobody is kept away. It runs inside environments: the standard library alone.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from broker.runtime.inside import kernel, limits

_MAPPED = "0" * 16 + ("FFFF0000" if sys.byteorder == "little" else "0000FFFF")
"""How the table of IPv6 begins an address of IPv4."""


def is_ours(connection: socket.socket, environment: str) -> bool:
    """Return whether a process of this environment, which this process leads, has made the connection."""
    if not kernel.LINUX:
        return True
    try:
        found = _socket_of(connection.getpeername(), connection.getsockname())
    except OSError:  # it has hung up already
        return False
    if found is None:
        return False
    uid, inode = found
    if uid != os.geteuid():
        return False
    own = os.getpid()
    below = limits.descendants(own)
    return _holds(below, inode) or _holds((pid for pid in limits.members(environment, own) if pid not in below), inode)


def _socket_of(theirs: tuple[str, int], ours: tuple[str, int]) -> tuple[int, str] | None:
    """Return user and inode of the socket at `theirs`, address and port, that is connected to ours."""
    wanted = [_written(*theirs), _written(*ours)]
    for table, mapped in (("tcp", ""), ("tcp6", _MAPPED)):
        ends = [mapped + end for end in wanted]
        with Path(f"/proc/self/net/{table}").open() as lines:
            for line in lines:
                fields = line.split(maxsplit=10)
                if fields[1:3] == ends:
                    return int(fields[7]), fields[9]
    return None


def _written(host: str, port: int) -> str:
    """Return an address as /proc/net/tcp writes it: a number in the byte order of the machine, and the port."""
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"


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
