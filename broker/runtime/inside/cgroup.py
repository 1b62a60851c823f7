"""Cgroup: a control group (cgroup v2) for each environment, where the system lets this user make them.

What it gives: memory.max and pids.max, which the kernel itself holds every process to, where those controllers were
handed down to us; and cgroup.kill, which ends all at once, whatever they start meanwhile. Without any of it there are
the ways of limits.py, which stay in force in any case.

To move a process takes 5 to 20 ms, for which the kernel waits. So none is moved: the fork server itself waits in the
control group of the environment to come, in which each fork is therefore born, and moves on after the fork.

https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

WANTED = ("memory", "pids")
"""The controllers that we can use."""

DELEGATED = "broker"
"""A control group of this name is the broker's own leaf: what it may divide up is the one above (DelegateSubgroup=)."""

_NAME = re.compile(r"broker-([0-9]+)-[0-9a-f]{6}")


def claim(proc: Path = Path("/proc/self")) -> Path | None:
    """Make the control group below which this process's environments get theirs; None where that is not allowed."""
    place = _own(proc)
    if place is None:
        return None
    place = place.parent if place.name == DELEGATED else place
    home = place / f"broker-{os.getpid()}-{os.urandom(3).hex()}"
    try:
        _sweep(place)
        home.mkdir()
    except OSError:
        return None
    for above in (place, home):
        for controller in WANTED:
            with contextlib.suppress(OSError):  # it was not handed down, or processes live where it would be divided
                (above / "cgroup.subtree_control").write_text(f"+{controller}")
    return home


def release(home: Path) -> None:
    """Remove what `claim` made, with whatever still lives in it."""
    for leaf in _below(home):
        kill(leaf)
        remove(leaf)
    with contextlib.suppress(OSError):
        home.rmdir()


class Leaves:
    """The fork server's side: the control groups of its environments."""

    def __init__(self, home: Path | None) -> None:
        """Take what `claim` returned in the worker; None: no control groups."""
        self._home = home
        self._controllers = _read(home / "cgroup.subtree_control").split() if home else []
        self._number = 0
        self._next: Path | None = None
        self.move_on()

    def bind(self, *, memory: int, processes: int) -> Path | None:
        """Set the limits of the control group in which the next fork is born, and return it."""
        if self._next is None:
            return None
        if "memory" in self._controllers:
            _write(self._next / "memory.max", str(memory))
            _write(self._next / "memory.swap.max", "0")
            _write(self._next / "memory.oom.group", "1")
        if "pids" in self._controllers:
            _write(self._next / "pids.max", str(processes + 1))  # the fork server is in it until it has moved on
        return self._next

    def move_on(self) -> None:
        """Leave the control group to the environment that was born in it."""
        if self._home is None:
            return
        self._number += 1
        leaf = self._home / f"{os.getpid()}-{self._number}"
        try:
            leaf.mkdir()
            (leaf / "cgroup.procs").write_text("0")
        except OSError:  # environments go on without
            remove(leaf)
            self._home = self._next = None
        else:
            self._next = leaf

    def step_aside(self) -> None:
        """Leave the control group of the environment to come, in a fork that does something else."""
        if self._home is not None:
            aside = self._home / "aside"
            with contextlib.suppress(FileExistsError):
                aside.mkdir()
            _write(aside / "cgroup.procs", "0")


def kill(leaf: Path) -> None:
    """Kill all that lives in a control group (Linux 5.14)."""
    _write(leaf / "cgroup.kill", "1")


def remove(leaf: Path) -> bool:
    """Remove a control group; False when something still lives in it."""
    try:
        leaf.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def ran_out_of_memory(leaf: Path) -> bool:
    """Return whether the kernel has killed something in it because of memory.max."""
    fields = _read(leaf / "memory.events").split()
    return int(dict(zip(fields[::2], fields[1::2], strict=False)).get("oom_kill", "0")) > 0


def _own(proc: Path) -> Path | None:
    """Return the folder of the control group that this process is in."""
    mounts = [line.split() for line in _read(proc / "mounts").splitlines()]
    places = [fields[1] for fields in mounts if len(fields) > 2 and fields[2] == "cgroup2"]
    paths = [line[3:] for line in _read(proc / "cgroup").splitlines() if line.startswith("0::/")]
    if not places or not paths or "/.." in paths[0]:  # outside of what is mounted here
        return None
    return Path(places[0], paths[0].lstrip("/"))


def _sweep(place: Path) -> None:
    """Remove what workers have left that were killed together with their nursery."""
    for home in _below(place):
        name = _NAME.fullmatch(home.name)
        if name and not Path("/proc", name[1]).exists():
            release(home)


def _below(place: Path) -> list[Path]:
    try:
        return [path for path in place.iterdir() if path.is_dir()]
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        path.write_text(text)
