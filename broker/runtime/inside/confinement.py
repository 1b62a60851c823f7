"""Confinement: what a process gives up between its birth as a fork of the nursery and the function's first line.

One function, whatever runs afterwards: the Python bootstrap, or a program that takes the process over. It runs in the
forked child, so it needs nothing beyond the standard library.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker.runtime.inside import kernel, limits


def confine(bounds: Mapping[str, Any], *, parent: int) -> None:
    """Bind this process and all that it will start; nothing of it can be taken back.

    `bounds` is what broker/runtime/birth.py says under that name. The order counts: folders are made while it may
    still make them, and what Linux forgets when the user changes comes last. `parent` is the nursery: when it dies, so
    does this.
    """
    if bounds["bubble"] is None:  # in the bubble it is another
        Path(bounds["tmp"]).mkdir(0o700)
    if nice := bounds["nice"]:
        os.nice(nice)
    limits.confine(bounds["memory"])
    lower(resource.RLIMIT_NOFILE, bounds["open_files"])
    if bounds["file_size"] is not None:
        lower(resource.RLIMIT_FSIZE, bounds["file_size"])
    if bounds["user"] is not None:
        _change_user(bounds, *bounds["user"])
    kernel.no_new_privileges()
    kernel.die_with_parent(parent)


def _change_user(bounds: Mapping[str, Any], uid: int, gid: int, groups: list[int]) -> None:
    """Become another user, for good. Only root can."""
    if bounds["bubble"] is None:
        os.chown(bounds["tmp"], uid, gid)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def lower(kind: int, limit: int) -> None:
    """Set a limit of this process, so that it cannot be raised again; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))
