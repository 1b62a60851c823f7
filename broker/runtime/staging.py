"""Staging: the worker's end of the processes that prepare what functions stand on, see preparing.py.

Nothing here blocks: what is not ready is being prepared meanwhile, and what waits for it stays in its queue. Code alone
is fetched while layers are built, so that an index that does not answer holds up no deploy. What could not be prepared
is tried again after a while.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from broker.errors import LayerFailed
from broker.function import AWAITED
from broker.leash import leashed
from broker.runtime.preparing import Prepared, task_for
from broker.runtime.stage import Stage

if TYPE_CHECKING:
    from broker.config import Config
    from broker.function import Function

log = logging.getLogger("broker.worker")

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before what could not be prepared is tried again."""

AT_ONCE = 2
"""How many stages with layers are prepared at a time, and how many without."""

_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from broker.runtime.preparing import main; main()"
_END_WAIT = 5.0

Key = tuple[str, tuple[str, ...]]


class Refusal(msgspec.Struct, frozen=True):
    """Why a stage cannot be had now."""

    why: str
    until: float
    """The monotonic moment from which on it may be tried again."""


class Staging:
    """The stages of one worker's functions. Single-threaded: all is called from the worker's loop."""

    def __init__(self, config: Config, selector: selectors.BaseSelector) -> None:
        """Watch the processes' answers in `selector`, with a function as `data` that returns no messages."""
        self._config = config
        self._selector = selector
        self._plain = Stage(root=config.root)
        self._stages: dict[Key, Stage | Refusal] = {}
        self._failures: dict[Key, int] = {}
        self._queue: deque[tuple[Key, Function]] = deque()
        self._running: dict[Key, tuple[subprocess.Popen[bytes], bytearray]] = {}

    def ready(self, function: Function, now: float) -> bool:
        """Return whether an attempt may be begun: `of` has a stage, or the reason why there is none.

        When not, it is being prepared from now on.
        """
        if not function.layers and not function.code:
            return function.handler != AWAITED
        key = _key(function)
        found = self._stages.get(key)
        if isinstance(found, Stage) or (found is not None and now < found.until):
            return True
        if key not in self._running and all(key != waiting for waiting, _ in self._queue):
            self._queue.append((key, function))
            self._go_on()
        return False

    def of(self, function: Function) -> Stage | str:
        """Return the stage, or why there is none."""
        if not function.layers and not function.code:
            return self._plain
        key = _key(function)
        found = self._stages.get(key)
        if found is None:
            return "what it stands on is not prepared yet"
        if isinstance(found, Refusal):
            return found.why
        if not all(folder.is_dir() for folder in (found.root, *found.layers)):
            del self._stages[key]
            return f"a folder of {', '.join(map(str, (found.root, *found.layers)))} was removed; it is made again"
        return found

    def close(self) -> None:
        """End what is under way."""
        self._queue.clear()
        for key, (process, _) in list(self._running.items()):
            self._let_go(key, process)

    def _go_on(self) -> None:
        for waiting in list(self._queue):
            key, function = waiting
            if sum(_builds(one) == _builds(key) for one in self._running) < AT_ONCE:
                self._queue.remove(waiting)
                self._begin(key, function)

    def _begin(self, key: Key, function: Function) -> None:
        try:
            task = task_for(self._config, function)
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[2])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=leashed(),  # noqa: PLW1509 -- as the nursery's: it loads nothing and takes no lock
            )
        except (LayerFailed, OSError) as error:
            self._keep(key, function, Prepared(refusal=str(error)))
            return
        self._running[key] = process, bytearray()
        if process.stdout is None or process.stdin is None:
            raise AssertionError
        with contextlib.suppress(BrokenPipeError), process.stdin as given:  # then its answer is missing, too
            given.write(msgspec.json.encode(task))
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, lambda: self._read(key, function, process))

    def _read(self, key: Key, function: Function, process: subprocess.Popen[bytes]) -> Sequence[object]:
        if key not in self._running or process.stdout is None:
            return []
        _, answer = self._running[key]
        data = process.stdout.read()
        if data:
            answer += data
        elif data is not None:
            status = self._let_go(key, process)
            try:
                prepared = msgspec.json.decode(bytes(answer), type=Prepared)
            except msgspec.DecodeError:
                prepared = Prepared(refusal=f"the process that prepares it ended with status {status}")
            self._keep(key, function, prepared)
            self._go_on()
        return []

    def _let_go(self, key: Key, process: subprocess.Popen[bytes]) -> int:
        """End a process that has answered, or whose answer nobody wants any more, and all that it has started."""
        del self._running[key]
        if process.stdout is not None:
            self._selector.unregister(process.stdout)
            process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05 if process.poll() is None else 0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait(_END_WAIT)

    def _keep(self, key: Key, function: Function, prepared: Prepared) -> None:
        if not prepared.refusal:
            self._failures.pop(key, None)
            self._stages[key] = prepared.stage()
            return
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures - 1, 16))
        log.warning("%s cannot run: %s", function.name, prepared.refusal)
        self._stages[key] = Refusal(prepared.refusal, time.monotonic() + wait)


def _builds(key: Key) -> bool:
    return bool(key[1])


def _key(function: Function) -> Key:
    return function.code, tuple(function.layers)
