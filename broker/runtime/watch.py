"""Watch: looks at what an environment uses, ten times a second, and says when it is more than its function may."""

from __future__ import annotations

import time
from pathlib import Path

from broker.errors import FunctionError, OutOfMemory, TmpFull, TooManyProcesses
from broker.function import Function
from broker.quantity import Size
from broker.runtime.inside import limits
from broker.runtime.scratch import Gauge

BUSY = 0.1
"""Seconds between two looks while an attempt runs."""

IDLE = 1.0
"""Seconds between two looks while none does: threads and daemons may go on."""

ALARM = 0.01
"""Seconds to the next look when there are twice as many processes as at the last one."""


SHARE = 20
"""How many times as long as a look has taken the next one is put off at the least: it is the worker's time."""


class Watch:
    """What the processes of one environment use."""

    def __init__(self, function: Function, tmp: Path, now: float) -> None:
        """Take the function, whose limits they are, and the folder for temporary files."""
        self.at = now + BUSY
        """The monotonic moment of the next look while an attempt runs."""
        self.peak = 0
        """Bytes of memory: the most that was seen."""
        self._function = function
        self._tasks = 0
        self._most_tasks = function.processes + (2 if function.isolation == "bwrap" else 0)  # its own two processes
        self._tmp = Gauge(tmp)

    def look(self, pid: int, now: float) -> FunctionError | None:
        """Return what is too much; None when all is well."""
        began = time.thread_time()
        pids, tasks = limits.family(pid)
        alarm, self._tasks = tasks > 2 * self._tasks + 16, tasks
        if tasks > self._most_tasks:
            return TooManyProcesses(f"had {tasks} processes and threads; the limit is {self._function.processes}")
        used = limits.memory_of(pids, self._function.memory)
        self.peak = max(self.peak, used)
        self.at = now + (ALARM if alarm else max(BUSY, (time.thread_time() - began) * SHARE))
        if used > self._function.memory:
            return outgrown(used, self._function.memory)
        if (held := self._tmp.look()) > self._function.tmp:
            return TmpFull(f"had {_megabytes(held)} in its /tmp; the limit is {self._function.tmp}")
        return None


def outgrown(used: int, limit: Size) -> OutOfMemory:
    """Return the verdict on an environment that used so many bytes of memory."""
    return OutOfMemory(f"grew to {_megabytes(used)}; the limit is {limit}")


def _megabytes(size: int) -> str:
    return f"{size / (1 << 20):.0f}MB"
