"""Processes: start commands, see what they and their children use, and end exactly these."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process as /proc shows it (proc(5))."""

    pid: int
    parent: int
    session: int
    cpu: float
    """Seconds of processor time, those of its children that were waited for included."""


class Crew:
    """Commands that were started together, each in a session of its own, with all that descends from them."""

    def __init__(self, log: Path) -> None:
        """Take the file to which they print."""
        self._log = log
        self._roots: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, command: Sequence[str], *, variables: Mapping[str, str] | None = None, folder: Path) -> int:
        """Start a command; its process id."""
        with self._log.open("ab") as log:
            root = subprocess.Popen(
                command,
                cwd=folder,
                env={**_environment(), **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._roots.append(root)
        return root.pid

    def members(self) -> list[Process]:
        """Return the living processes."""
        roots = {root.pid for root in self._roots}
        everyone = processes()
        found = {one.pid for one in everyone if one.pid in roots or one.session in roots}
        size = -1
        while size != len(found):
            size = len(found)
            found.update(one.pid for one in everyone if one.parent in found)
        return [one for one in everyone if one.pid in found]

    def cpu(self) -> float:
        """Return the seconds of processor time of all of them."""
        return sum(one.cpu for one in self.members())

    def memory(self) -> float:
        """Return megabytes: pages that several share count in part for each (proc(5), Pss)."""
        return sum(memory_of(one.pid).shared_out for one in self.members())

    def alive(self) -> bool:
        """Whether none of the commands has ended by itself."""
        return all(root.poll() is None for root in self._roots)

    def said(self) -> str:
        """Return the end of what they have printed."""
        return self._log.read_bytes()[-1500:].decode(errors="replace") if self._log.exists() else ""

    def stop(self, grace: float = 3.0) -> None:
        """Ask them to end; end what is left after the grace period."""
        members = self.members()
        for root in self._roots:
            if root.poll() is None:
                root.terminate()
        end = time.monotonic() + grace
        for root in self._roots:
            with suppress(subprocess.TimeoutExpired):
                root.wait(max(0.0, end - time.monotonic()))
        self._kill(members)

    def kill(self) -> None:
        """End all of them at once, as a power failure would."""
        self._kill(self.members())

    def _kill(self, members: Sequence[Process]) -> None:
        left = {(one.pid, one.session) for one in members}
        for _ in range(200):
            living = {(one.pid, one.session) for one in processes()}
            left = (left & living) | {(one.pid, one.session) for one in self.members()}
            if not left:
                break
            for pid, _session in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for root in self._roots:
                root.poll()
            time.sleep(0.005)
        for root in self._roots:
            root.wait()
        self._roots.clear()


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Megabytes of one process: resident, and with shared pages counted in part."""

    resident: float
    shared_out: float


def memory_of(pid: int) -> Memory:
    """Return what a process has in memory; nothing when it has ended."""
    sizes = {"Rss": 0.0, "Pss": 0.0}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, size = line.partition(":")
            if name in sizes:
                sizes[name] = int(size.split()[0]) / 1024
    return Memory(resident=sizes["Rss"], shared_out=sizes["Pss"])


def nanoseconds(pid: int) -> int:
    """Return the processor time of a process' living threads, exactly (proc(5) counts in hundredths of a second)."""
    spent = 0
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            spent += int((thread / "schedstat").read_text().split()[0])
    return spent


def processes() -> list[Process]:
    """Return every process that is no zombie."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if fields[0] != b"Z":
                    cpu = sum(int(ticks) for ticks in fields[11:15]) / TICK
                    found.append(Process(pid=int(entry.name), parent=int(fields[1]), session=int(fields[3]), cpu=cpu))
    return found


def command_line(pid: int) -> list[str]:
    """Return the arguments with which a process was started; none when it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []


def _environment() -> dict[str, str]:
    """Return this process' variables without those that slow Python down or speed it up."""
    unwanted = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH", "BROKER_CONFIG"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}
