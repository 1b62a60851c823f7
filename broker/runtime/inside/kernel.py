"""Kernel: what Linux is asked for, so that no process outlives the one that answers for it.

On other systems these calls do nothing. They run in the nursery, so they need nothing beyond the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

LINUX = sys.platform == "linux"

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)
_libc.getenv.restype = ctypes.c_void_p


def die_with_parent(parent: int) -> None:
    """Have this process killed when its parent dies; exit at once when that has happened already."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that no daemon slips away."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def no_new_privileges() -> None:
    """Have no program that is started from here on gain rights, such as those of `sudo`."""
    _prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1))


def keep_secrets() -> None:
    """Keep other processes of the same user from reading this one's variables and memory (PR_SET_DUMPABLE, proc(5)).

    What it forks has the same until it becomes another program.
    """
    _prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0))


def show_name(name: str) -> None:
    """Have `top` and `ps -o comm` show the first 15 bytes of this name."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def variable_address(name: str) -> int:
    """Return where the value of a variable, as this process was started with, lies in memory; 0 if it has none."""
    return _libc.getenv(name.encode()) or 0


def overwrite_variable(address: int, value: str) -> None:
    """Replace a variable's value, in place, by one of the same length.

    /proc/PID/environ shows the memory that a process was started with, so it shows this and nothing that is set by
    other means; processes forked from here on show it too.
    """
    if address:
        ctypes.memmove(address, value.encode(), len(value))


def _prctl(option: int, value: ctypes.c_ulong | ctypes.c_char_p) -> None:
    if LINUX and _libc.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
