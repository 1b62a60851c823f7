"""Plain jobs: the worker's end of the process that runs them: started, heard, ended.

They run in a process of their own because a worker has threads and secrets, and their code is anybody's.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rq.worker.base import WorkerStatus

from broker import address
from broker.leash import outcome
from broker.plain.process import BYE, DONE, Orders

if TYPE_CHECKING:
    from broker.config import Config

log = logging.getLogger("broker.worker")

FIRST_WAIT, LONGEST_WAIT = 0.2, 10.0
"""Seconds before a process that ended unasked is started again."""

AT_ONCE = 1.5
"""Seconds that the process gets to end its work-horse and say so."""

_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from broker.plain.process import main; sys.exit(main())"


class PlainJobs:
    """The process that runs plain jobs under a worker's name; none when the configuration names no queues."""

    def __init__(self, config: Config, name: str) -> None:
        """Take the worker's name; nothing is started yet."""
        self._config = config
        self._name = name
        self.queues = list(config.settings.rq.queues)
        self.ended = 0
        """How many jobs have ended."""
        self.state: str = WorkerStatus.IDLE
        self._process: subprocess.Popen[bytes] | None = None
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._burst = False
        self._max_jobs: int | None = None
        self._asked_to_end = self._said_bye = False
        self._wait = FIRST_WAIT
        self._start_at: float | None = None

    def fileno(self) -> int:
        """Return the file that is readable when the process has told something."""
        return self._reader

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self.state == WorkerStatus.BUSY

    @property
    def working(self) -> bool:
        """Whether a job runs or, when the process ends by itself, it has not ended yet."""
        ends = self._asked_to_end or self._burst or self._max_jobs is not None
        return self._process is not None and (self.busy or ends)

    def start(self, *, burst: bool, max_jobs: int | None) -> None:
        """Start the process, if there are queues. Call it from the main thread."""
        self._burst, self._max_jobs = burst, max_jobs
        if self.queues:
            self._launch()

    def hear(self) -> bool:
        """Read what the process has told; whether its state has changed."""
        before = self.state
        for word in os.read(self._reader, 1 << 16).decode().split():
            if word == DONE:
                self.ended += 1
                self._wait = FIRST_WAIT
            elif word == BYE:
                self._said_bye = True
            else:
                self.state = WorkerStatus(word)
        return self.state != before

    def tick(self, now: float) -> None:
        """Notice that the process has ended; start it again unless it was to end."""
        process = self._process
        if process is not None and (self._said_bye or process.poll() is not None):
            code = process.wait()
            self._process, self._said_bye, self.state = None, False, WorkerStatus.IDLE
            if not (self._asked_to_end or self._burst or self._max_jobs is not None):
                log.warning("the process for plain jobs %s; starting it again in %.1f s", outcome(code), self._wait)
                self._start_at = now + self._wait
                self._wait = min(LONGEST_WAIT, self._wait * 2)
        if self._start_at is not None and now >= self._start_at and not self._asked_to_end:
            self._launch()

    def ask_to_end(self) -> None:
        """Let the job that runs be the last."""
        if not self._asked_to_end:
            self._asked_to_end = True
            self._send(signal.SIGTERM)

    def close(self) -> None:
        """End the process now; a job that runs is ended, and abandoned as RQ sees it."""
        self._asked_to_end = True
        self._send(signal.SIGTERM)
        if self._process is not None:
            try:
                self._process.wait(AT_ONCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        os.close(self._reader)
        os.close(self._writer)

    def _launch(self) -> None:
        self._start_at = None
        settings = self._config.settings
        orders = Orders(
            redis=settings.redis or address.url(address.find(self._config.data)),
            name=self._name,
            parent=os.getpid(),
            queues=self.queues,
            serializer=settings.rq.serializer,
            root=str(self._config.root),
            report=self._writer,
            burst=self._burst,
            max_jobs=self._max_jobs,
        )
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[2])],
            stdin=subprocess.PIPE,
            pass_fds=[self._writer],
            start_new_session=True,  # a Ctrl-C at the terminal is for the worker, which passes it on
        )
        if (pipe := self._process.stdin) is not None:
            with suppress(BrokenPipeError), pipe:  # it may have ended already; `tick` notices
                pipe.write(msgspec.json.encode(orders))

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
