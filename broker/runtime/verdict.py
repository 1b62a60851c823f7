"""Verdict: why an environment has ended, as far as the status of its process tells."""

from __future__ import annotations

import os
import signal

from broker.errors import EnvironmentDied, Exited, FunctionError, Killed
from broker.function import Function
from broker.runtime.watch import outgrown

_SIGNALLED = 128
"""bwrap exits with this and the signal's number when one has killed what runs in it."""


def verdict(function: Function, status: int, *, rss: int, starved: bool, stopping: bool, by_us: bool) -> FunctionError:
    """Return what the end of a process with this status, as of wait4(2), stands for.

    `rss` is its peak of memory in bytes; `starved`: the kernel killed it because its control group had reached its
    memory limit; `stopping`: it was asked to end; `by_us`: the nursery killed it on our request, while it lived.
    """
    code = os.waitstatus_to_exitcode(status)
    if function.isolation == "bwrap" and code > _SIGNALLED:
        code = _SIGNALLED - code
    if starved or (code < 0 and rss > function.memory):  # the kernel or the language was quicker
        return outgrown(rss, function.memory)
    if stopping and (code == 0 or by_us):
        return EnvironmentDied("was stopped")
    if by_us:
        return EnvironmentDied("closed its connection to the broker")
    if code < 0:
        return Killed(f"was killed by {_name(-code)}")
    return Exited(f"exited with status {code}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
