"""Child: one long-lived command, what it prints, and when to start it again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from broker.leash import leashed, outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST_WAIT, LONGEST_WAIT = 0.2, 10.0
"""Seconds before something that ended is started again; doubled each time."""

STEADY = 10.0
"""Seconds of life after which the first wait counts again."""

MISCONFIGURED = 2
"""The exit code of a command that says what is wrong with its configuration."""

_LONGEST_LINE = 1 << 16


class Revival:
    """When to start something again that keeps ending."""

    def __init__(self) -> None:
        self.due: float | None = 0.0
        """The monotonic moment of the next start, at first at once; None while it runs."""
        self._since = 0.0
        self._wait = FIRST_WAIT

    def started(self) -> None:
        """Note that it runs."""
        self.due, self._since = None, time.monotonic()

    def ended(self) -> float:
        """Note that it ended, or did not start; return the seconds until the next start."""
        now = time.monotonic()
        if self.due is None and now - self._since >= STEADY:
            self._wait = FIRST_WAIT
        wait, self._wait = self._wait, min(self._wait * 2, LONGEST_WAIT)
        self.due = now + wait
        return wait


class Child:
    """One command in a process group of its own, so that Ctrl-C reaches only the process that looks after it."""

    def __init__(self, name: str, argv: Sequence[str]) -> None:
        self.name = name
        self.revival = Revival()
        self.told = False
        """Whether it was asked to end."""
        self.output: int | None = None
        """Where to read what it prints: non-blocking, open while it runs."""
        self.hopeless = False
        """Whether its first life has ended since it is misconfigured; later it may be a file that is being edited."""
        self._starts = 0
        self._argv = list(argv)
        self._process: subprocess.Popen[bytes] | None = None
        self._partial = b""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the command. Raises OSError when there is no such program or no process to be had."""
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            process_group=0,
            preexec_fn=leashed(),  # noqa: PLW1509 -- the supervisor has one thread
        )
        if self._process.stdout is not None:
            self.output = self._process.stdout.fileno()
            os.set_blocking(self.output, False)
        self._starts += 1
        self.revival.started()

    def lines(self) -> list[str]:
        """Return the whole lines that have arrived; closes `output` at its end."""
        if self.output is None:
            return []
        try:
            while block := os.read(self.output, 1 << 16):
                self._partial += block
            self._close()
            if self._partial and not self._partial.endswith(b"\n"):
                self._partial += b"\n"
        except BlockingIOError:
            pass
        *whole, self._partial = self._partial.split(b"\n")
        if len(self._partial) > _LONGEST_LINE:
            whole.append(self._partial)
            self._partial = b""
        return [line.decode(errors="replace") for line in whole]

    def collect(self) -> tuple[list[str], str] | None:
        """Return its last lines and how it ended, if it has; None while it runs."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        last = self.lines()
        if self._partial:
            last.append(self._partial.decode(errors="replace"))
            self._partial = b""
        self._close()
        self._process = None
        self.hopeless = code == MISCONFIGURED and self._starts == 1
        return last, outcome(code)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _close(self) -> None:
        # Whoever else inherited it may go on writing; what it says is not the child's any more.
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        self.output = None
