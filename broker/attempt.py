"""Attempt: one try at an invocation (or at a batch of them): what is sent, what was printed, whether it may run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

from broker import logs
from broker.errors import Expired, Foreign, FunctionError, PayloadFailed, WorkerLost
from broker.function import Function
from broker.ledger import Claimed
from broker.payload import Shaper, compose

POISON = 3
"""After so many crashes of its worker or environment an invocation is a dead letter."""


class Attempt:
    """One try: what is sent to the environment, what was printed, what may become of it."""

    __slots__ = ("claimed", "client", "cold", "function", "given", "id", "lines", "number", "shaped", "unflushed_since")

    def __init__(self, function: Function, claimed: Sequence[Claimed]) -> None:
        """Take one claimed invocation, or the several of a batch; the first gives the attempt its id."""
        self.function = function
        self.claimed = claimed
        self.id = claimed[0].id
        self.client = claimed[0].client
        self.number = max(one.attempt for one in claimed) if len(claimed) > 1 else claimed[0].attempt
        self.lines: list[logs.Line] = []
        self.unflushed_since: float | None = None
        self.given = 0.0
        """The monotonic moment at which it began, or could have begun at the earliest."""
        self.shaped: bytes | None = None
        """What is sent instead of its events, when the function wants what AWS would have sent."""
        self.cold: float | None = None
        """Milliseconds of init, when this attempt had to wait for a new environment; negative until that is ready."""

    def payload(self) -> bytes:
        """Return what the handler gets as its event, as JSON."""
        if self.shaped is not None:
            return self.shaped
        data_only = self.function.payload == "data"
        parts = [_data_of(one.event) if data_only else one.event for one in self.claimed]
        return b"[" + b",".join(parts) + b"]" if self.function.batch else parts[0]

    def _shape(self, sources: Mapping[str, Shaper]) -> FunctionError | None:
        """Give the payload the shape that AWS would have sent; return why that cannot be, if so."""
        events = [(one.event, one.attempt) for one in self.claimed]
        try:
            self.shaped = compose(events, sources, batch=self.function.batch is not None)
        except Exception as error:  # noqa: BLE001 -- the border to a third party's source
            return PayloadFailed(f"what AWS would have sent could not be made: {type(error).__name__}: {error}")
        return None

    def begin(self) -> None:
        """Note that it is sent to an environment."""
        # Not `say`: until it prints something, or has run for a moment, nothing is to be written. Most end before.
        time_ms = int(time.time() * 1000)
        self.lines.append(logs.Line(self.id, self.number, time_ms, "", logs.start(self.id, self.function.version)))

    def say(self, text: str, level: str = "", time_ms: int | None = None) -> None:
        """Add a line to what the attempt has printed."""
        if self.unflushed_since is None:
            self.unflushed_since = time.monotonic()
        time_ms = int(time.time() * 1000) if time_ms is None else time_ms
        self.lines.append(logs.Line(self.id, self.number, time_ms, level, text))

    def take_lines(self) -> list[logs.Line]:
        """Return the lines not written yet, and forget them."""
        lines, self.lines, self.unflushed_since = self.lines, [], None
        return lines

    def running_for(self) -> float:
        """Return the seconds since it began."""
        return time.monotonic() - self.given

    def hopeless(self, sources: Mapping[str, Shaper]) -> FunctionError | None:
        """Return why it must not be run at all, if so: it is a poison pill, too old, or cannot be handed over."""
        max_age = self.function.max_age
        for one in self.claimed:
            if one.foreign:
                name = self.function.name
                return Foreign(f"another program put this job into the queue; it is no invocation of {name}")
            if one.crashes >= POISON:
                return WorkerLost(f"its worker or its environment died {POISON} times while it ran")
        if max_age is not None and all(is_expired(self.function, one) for one in self.claimed):
            return Expired(f"it was not run within max_age ({max_age})")
        return self._shape(sources) if self.function.payload == "aws" else None

    def part(
        self, hopeless: FunctionError, sources: Mapping[str, Shaper]
    ) -> tuple[Attempt | None, list[tuple[Attempt, FunctionError]]]:
        """Part what can be run from what is hopeless, each with its reason: of a batch that may be one event."""
        each = [Attempt(self.function, [one]) for one in self.claimed]
        lost = [(one, why) for one in each if (why := one.hopeless(sources)) is not None]
        if len(lost) in {0, len(each)}:
            return None, [(self, hopeless)]
        gone = {one.id for one, _ in lost}
        return Attempt(self.function, [one for one in self.claimed if one.id not in gone]), lost


def is_expired(function: Function, one: Claimed) -> bool:
    """Return whether it has waited for longer than its function allows."""
    return function.max_age is not None and time.time() - one.accepted_ms / 1000 > function.max_age


def parted(function: Function, claimed: Sequence[Claimed]) -> list[Sequence[Claimed]]:
    """Part what was claimed of a function into what goes into one attempt each: the batch, or each on its own."""
    if not function.batch:
        return [[one] for one in claimed]
    together = [one for one in claimed if not _is_alone(function, one)]
    if len(together) == len(claimed):
        return [claimed] if claimed else []
    return [*([together] if together else []), *([one] for one in claimed if _is_alone(function, one))]


def _is_alone(function: Function, one: Claimed) -> bool:
    """Return whether it shares its attempt with no other, as it is buried, or may be the death of its worker."""
    return one.foreign or one.crashes > 0 or (function.max_age is not None and is_expired(function, one))


def _data_of(event: bytes) -> bytes:
    # Not msgspec: it refuses the lone surrogates that stand for a file name's bytes; see broker/event.py.
    return json.dumps(json.loads(event).get("data")).encode()
