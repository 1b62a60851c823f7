"""Pipelined: a ledger for a loop that does not wait: calls go out one behind another, answers are read as they come.

So a worker looks after its environments while Redis works, and Redis works while the worker does.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import hiredis

from broker.doorbell import connection_like
from broker.errors import StoreUnavailable
from broker.ledger.ledger import Ledger, available
from broker.ledger.line import in_pieces

if TYPE_CHECKING:
    from broker.ledger.calls import Answer, Call

PATIENCE = 2.0
"""Seconds that an answer may take."""


class Pipelined:
    """One connection to a ledger's Redis, watched in a selector; made at the first `flush`, and again once it broke.

    `flush` and `hear` raise StoreUnavailable as the ledger's own calls do. Then all is forgotten that was not answered,
    and it is not known whether it was carried out.
    """

    def __init__(self, ledger: Ledger, selector: selectors.BaseSelector, on_readable: Callable[[], Any]) -> None:
        """Take what is to be the selector's data for the connection; it has to call `hear`."""
        self._ledger = ledger
        self._selector = selector
        self._on_readable = on_readable
        self._connection: Any = None
        self._descriptor = -1
        self._requests: list[bytes] = []
        self._waiting: deque[tuple[Callable[[Any], Any], Callable[[Any], None], float]] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether an answer has not come yet."""
        return bool(self._waiting)

    @property
    def late_at(self) -> float:
        """The monotonic moment at which the next answer is late, should it not have come; there is one to come."""
        return self._waiting[0][2] + PATIENCE

    def send(self, call: Call[Answer], then: Callable[[Answer], None]) -> None:
        """Send a call with the next `flush`; `hear` gives its answer to `then`."""
        arguments = ("EVALSHA", self._ledger.scripts[call.script].sha, 0, *call.arguments)
        self._requests += in_pieces(hiredis.pack_command(arguments))
        self._waiting.append((call.read, then, time.monotonic()))

    def flush(self) -> None:
        """Send what there is to send. Raises StoreUnavailable also when an answer has not come for too long."""
        if not self._waiting:
            return
        if time.monotonic() >= self.late_at:
            raise StoreUnavailable(f"Redis has not answered for {PATIENCE} s")
        if self._requests:
            with available():
                self._connect()
                self._connection.send_packed_command(self._requests, check_health=False)
            self._requests.clear()

    def hear(self) -> None:
        """Take the answers that are there; call it when the connection is readable."""
        if self._connection is None:
            return
        more = True
        while more:
            with available():
                asked = self._waiting.popleft() if self._waiting else None  # first: an error is an answer as well
                raw = self._connection.read_response()
                more = bool(self._waiting) and self._connection.can_read(0)
            if asked is None:
                raise StoreUnavailable("Redis has answered what nobody had asked")
            read, then, _ = asked
            then(read(raw))

    def finish(self) -> None:
        """Send what there is to send, and wait for all answers."""
        while self._waiting:
            self.flush()
            self.hear()

    def hang_up(self) -> None:
        """Forget everything that was not answered, and close the connection."""
        self._waiting.clear()
        self._requests.clear()
        if self._connection is not None:
            self._selector.unregister(self._descriptor)
            self._connection.disconnect()
            self._connection = None

    def _connect(self) -> None:
        if self._connection is not None:
            return
        connection = connection_like(self._ledger.client)
        connection.connect()
        for script in self._ledger.scripts.values():
            connection.send_command("SCRIPT", "LOAD", script.script)
            connection.read_response()
        self._descriptor = connection._sock.fileno()  # noqa: SLF001 -- redis-py shows it in no other way
        self._selector.register(self._descriptor, selectors.EVENT_READ, self._on_readable)
        self._connection = connection
