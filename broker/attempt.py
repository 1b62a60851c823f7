"""Attempt: one try at an invocation (or at a batch of them), from the claim to its settlements."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from broker import logs
from broker.errors import EnvironmentDied, EventError, Expired, Foreign, FunctionError, PayloadFailed, WorkerLost
from broker.event import Event, rfc3339
from broker.function import Function
from broker.ledger import Claimed, Order, Settlement
from broker.payload import Shaper, compose
from broker.runtime.messages import Died, Done

POISON = 3
"""After so many crashes of its worker or environment an invocation is a dead letter."""

LONGEST_REASON = 200
"""Characters."""

Follow = Callable[[str, Event], Sequence[Order]]
"""(destination, event) -> what is owed to the destination."""


_CALLED = {"succeeded": "result", "failed": "error"}


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attempt failed."""

    reason: str
    """The name of the error: `TimedOut`, or the exception's type."""
    body: bytes
    """AWS Lambda's error object as JSON: `{"errorType", "errorMessage", "stackTrace"}`."""
    verdicts: tuple[str, ...] = ("HandlerFailed",)
    """What kind of end it was, the most particular first, in the names of broker/errors.py; see `retry.by`."""
    crashed: bool = False

    @classmethod
    def of(cls, error: FunctionError, body: bytes = b"") -> Failure:
        """Return the failure that an error of ours stands for; `body` when the handler's own error is known."""
        name = type(error).__name__
        body = body or msgspec.json.encode({"errorType": name, "errorMessage": str(error)})
        verdicts = tuple(kind.__name__ for kind in type(error).__mro__ if issubclass(kind, FunctionError))
        crashed = isinstance(error, EnvironmentDied | WorkerLost)
        return cls(reason=name, body=body, verdicts=verdicts, crashed=crashed)

    @classmethod
    def raised(cls, body: bytes) -> Failure:
        """Return the failure that a handler's error object stands for."""
        try:
            reason = msgspec.json.decode(body, type=_Error).errorType[:LONGEST_REASON]
        except (msgspec.DecodeError, RecursionError):  # it comes from the function's process, which may say anything
            reason, text = "Unreadable", body[:LONGEST_REASON].decode(errors="replace")
            body = msgspec.json.encode({"errorType": reason, "errorMessage": f"an error that cannot be read: {text}"})
        verdict = "OutOfMemory" if reason == "OutOfMemory" else "HandlerFailed"
        return cls(reason=reason, body=body, verdicts=(verdict,))


class _Error(msgspec.Struct):
    errorType: str = "Error"  # noqa: N815 -- AWS Lambda's name
    errorMessage: str = ""  # noqa: N815 -- AWS Lambda's name
    stackTrace: list[str] = []  # noqa: N815 -- AWS Lambda's name


class Attempt:
    """One try: what is sent to the environment, what was printed, how it ended."""

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

    def conclude(self, message: Done | Died, follow: Follow) -> list[Settlement]:
        """Settle it as its environment says that it ended."""
        if isinstance(message, Died):
            failure, duration_ms = Failure.of(message.error, message.body), self.running_for() * 1000
            self.say(f"[ERROR] {failure.reason}: {message.error}", "ERROR")
            return self.fail(failure, follow, duration_ms=duration_ms, used=message.max_rss)
        if not message.ok:
            failure = Failure.raised(message.body)
            return self.fail(failure, follow, duration_ms=message.duration_ms, used=message.max_rss)
        return self.succeed(message.body, follow, duration_ms=message.duration_ms, used=message.max_rss)

    def succeed(self, result: bytes, follow: Follow, *, duration_ms: float, used: int) -> list[Settlement]:
        """Settle it with its result (JSON); of a batch, those that `batchItemFailures` names have failed."""
        partly = self.function.batch or self.shaped is not None
        failed = self._failed_items(result) if partly and b'"batchItemFailures"' in result else set()
        if failed is None:
            body = {"errorType": "BatchAnswer", "errorMessage": "batchItemFailures names no event of this batch"}
            failure = Failure(reason="BatchAnswer", body=msgspec.json.encode(body))
            return self.fail(failure, follow, duration_ms=duration_ms, used=used)
        self._report(duration_ms, used, "error" if failed else "")
        settlements = []
        for position, one in enumerate(self.claimed):
            if position in failed:
                failure = Failure(reason="BatchItemFailure", body=b'{"errorType":"BatchItemFailure"}')
                settlements.append(self._failed(one, failure, follow))
            else:
                settlements.append(self._finished(one, result, follow))
        return self._billed(settlements, duration_ms)

    def fail(self, failure: Failure, follow: Follow, *, duration_ms: float = 0, used: int = 0) -> list[Settlement]:
        """Settle it as failed: each invocation is retried, or a dead letter when its retries or its age are used up."""
        self._report(duration_ms, used, "timeout" if failure.reason == "TimedOut" else "error", failure.reason)
        return self._billed([self._failed(one, failure, follow) for one in self.claimed], duration_ms)

    def bury(self, failure: Failure, follow: Follow) -> list[Settlement]:
        """Settle it as a dead letter without having run it."""
        self.say(f"[ERROR] {_message(failure.body)}", "ERROR")
        return [self._dead(one, failure, follow) for one in self.claimed]

    def requeue(self) -> list[Settlement]:
        """Settle it as interrupted by the worker's own end: it runs again at once and nothing is held against it."""
        return [
            Settlement(verdict="retry", queue=one.queue, id=one.id, execution=one.execution, reason="Interrupted")
            for one in self.claimed
        ]

    def release(self, delay: float = 0) -> list[Settlement]:
        """Give it back as if it had never been claimed, to be claimed again after so many seconds."""
        return [
            Settlement(verdict="release", queue=one.queue, id=one.id, execution=one.execution, delay=delay)
            for one in self.claimed
        ]

    def _finished(self, one: Claimed, result: bytes, follow: Follow) -> Settlement:
        destination = self.function.on_success
        return Settlement(
            verdict="finished",
            queue=one.queue,
            id=one.id,
            execution=one.execution,
            keep=self.function.keep,
            result=result,
            again=one.attempt > 1,
            told=one.told,
            orders=self._onward(destination, one, "succeeded", result, follow) if destination else (),
        )

    def _failed(self, one: Claimed, failure: Failure, follow: Follow) -> Settlement:
        retry, max_age = self.function.retry, self.function.max_age
        failures = one.failures + 1
        delay = retry.delay(failures)
        age = time.time() + delay - one.accepted_ms / 1000
        too_old = max_age is not None and age > max_age
        poison = failure.crashed and one.crashes + 1 >= POISON
        if failures >= retry.tries(failure.verdicts) or too_old or poison or failure.verdicts[0] == "Stopped":
            return self._dead(one, failure, follow)
        return Settlement(
            verdict="retry",
            queue=one.queue,
            id=one.id,
            execution=one.execution,
            delay=delay,
            reason=failure.reason,
            failed=True,
            crashed=failure.crashed,
        )

    def _dead(self, one: Claimed, failure: Failure, follow: Follow) -> Settlement:
        destination = self.function.on_failure
        return Settlement(
            verdict="dead",
            queue=one.queue,
            id=one.id,
            execution=one.execution,
            error=failure.body,
            traceback=traceback_text(failure.body),
            reason=failure.reason,
            failed=True,
            stopped=failure.verdicts[0] == "Stopped",
            told=one.told,
            orders=self._onward(destination, one, "failed", failure.body, follow) if destination else (),
        )

    def _onward(self, destination: str, one: Claimed, how: str, body: bytes, follow: Follow) -> tuple[Order, ...]:
        """Return what is owed to a destination. It is owed also when the result is nested too deeply to be told."""
        try:
            return tuple(follow(destination, self._outcome(one, how, body)))
        except (EventError, ValueError, RecursionError) as error:
            self.say(f"[ERROR] {destination} is not told the {_CALLED[how]}: {error}", "ERROR")
            return tuple(follow(destination, self._outcome(one, how, b"null")))

    def _outcome(self, one: Claimed, how: str, body: bytes) -> Event:
        """Return the event for a destination; its id is the invocation's and attempt's, so it is taken on once."""
        data: dict[str, Any] = {
            "function": self.function.name,
            "invocation": one.id,
            "attempt": one.attempt,
            "event": json.loads(one.event),
            _CALLED[how]: json.loads(body),  # not msgspec: see _data_of
        }
        return Event(
            id=f"{one.id}-{one.attempt}",
            source=self.function.name,
            type=f"function.{how}",
            time=rfc3339(datetime.now(UTC)),
            data=data,
        )

    def _report(self, duration_ms: float, used: int, status: str, error: str = "") -> None:
        function, time_ms = self.function, int(time.time() * 1000)
        report = logs.report(
            self.id,
            duration_ms=duration_ms,
            memory=function.memory,
            used=used,
            init_ms=None if (self.cold or 0) < 0 else self.cold,
            status=status,
            error=error,
            version=function.version if function.code else "",
        )
        for text in (logs.end(self.id), report):
            self.lines.append(logs.Line(self.id, self.number, time_ms, "", text))

    def _billed(self, settlements: list[Settlement], duration_ms: float) -> list[Settlement]:
        """Put the attempt's bill on one settlement, the first that failed if one did; others cost nothing more."""
        number = next((n for n, one in enumerate(settlements) if one.failed), 0) if len(settlements) > 1 else 0
        settlements[number] = msgspec.structs.replace(
            settlements[number],
            billed_ms=logs.billed_ms(duration_ms) if duration_ms else 0,
            megabytes=self.function.memory >> 20,
            cold=self.cold is not None,
        )
        return settlements

    def _failed_items(self, result: bytes) -> set[int] | None:
        """Return the positions that AWS Lambda's partial answer names; None when it names none of this batch."""
        try:
            answer = json.loads(result)  # not msgspec: see _data_of
        except (ValueError, RecursionError):  # it comes from the function's process, which may say anything
            return None
        if not isinstance(answer, dict) or not answer.get("batchItemFailures"):
            return set()
        positions = {json.loads(one.event)["id"]: n for n, one in enumerate(self.claimed)}
        try:
            return {positions[item["itemIdentifier"]] for item in answer["batchItemFailures"]}
        except (KeyError, TypeError):
            return None


def is_expired(function: Function, one: Claimed) -> bool:
    """Return whether it has waited for longer than its function allows."""
    return function.max_age is not None and time.time() - one.accepted_ms / 1000 > function.max_age


def is_alone(function: Function, one: Claimed) -> bool:
    """Return whether it shares its attempt with no other, as it is buried, or may be the death of its worker."""
    return one.foreign or one.crashes > 0 or is_expired(function, one)


def traceback_text(body: bytes) -> str:
    """Return an error object as the text that RQ keeps: its stack trace, then type and message."""
    try:
        error = msgspec.json.decode(body, type=_Error)
    except msgspec.MsgspecError:
        return body.decode(errors="replace")
    return "".join(error.stackTrace) + f"{error.errorType}: {error.errorMessage}"


def _message(body: bytes) -> str:
    error = msgspec.json.decode(body, type=_Error)
    return f"{error.errorType}: {error.errorMessage}"


def _data_of(event: bytes) -> bytes:
    # Not msgspec: it refuses the lone surrogates that stand for a file name's bytes; see broker/event.py.
    return json.dumps(json.loads(event).get("data")).encode()
