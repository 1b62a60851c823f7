"""Outcome: how an attempt ended, as the settlements that tell the ledger: finished, retry, dead, and what follows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from broker import logs
from broker.attempt import POISON, Attempt
from broker.errors import EnvironmentDied, EventError, FunctionError, WorkerLost
from broker.event import Event, rfc3339
from broker.ledger import Claimed, Order, Settlement
from broker.runtime.messages import Died, Done

LONGEST_REASON = 200
"""Characters."""

Follow = Callable[[str, Event], Sequence[Order]]
"""(destination, event) -> what is owed to the destination."""

_ITEM_FAILURE = b'{"errorType":"BatchItemFailure","errorMessage":"the function named it in batchItemFailures"}'

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


def conclude(attempt: Attempt, message: Done | Died, follow: Follow) -> list[Settlement]:
    """Settle it as its environment says that it ended."""
    if isinstance(message, Died):
        failure, duration_ms = Failure.of(message.error, message.body), attempt.running_for() * 1000
        attempt.say(f"[ERROR] {failure.reason}: {message.error}", "ERROR")
        return fail(attempt, failure, follow, duration_ms=duration_ms, used=message.max_rss)
    if not message.ok:
        failure = Failure.raised(message.body)
        return fail(attempt, failure, follow, duration_ms=message.duration_ms, used=message.max_rss)
    return succeed(attempt, message.body, follow, duration_ms=message.duration_ms, used=message.max_rss)


def succeed(attempt: Attempt, result: bytes, follow: Follow, *, duration_ms: float, used: int) -> list[Settlement]:
    """Settle it with its result (JSON); of a batch, those that `batchItemFailures` names have failed."""
    partly = attempt.function.batch or attempt.shaped is not None
    failed = _failed_items(attempt, result) if partly and b'"batchItemFailures"' in result else set()
    if failed is None:
        body = {"errorType": "BatchAnswer", "errorMessage": "batchItemFailures names no event of this batch"}
        failure = Failure(reason="BatchAnswer", body=msgspec.json.encode(body))
        return fail(attempt, failure, follow, duration_ms=duration_ms, used=used)
    _report(attempt, duration_ms, used, "error" if failed else "")
    if len(attempt.claimed) > 1 and result == b"null" and not (failed or attempt.function.on_success):
        return _billed(attempt, _finished_together(attempt, result, follow), duration_ms)
    settlements = []
    for position, one in enumerate(attempt.claimed):
        if position in failed:
            failure = Failure(reason="BatchItemFailure", body=_ITEM_FAILURE)
            settlements.append(_failed(attempt, one, failure, follow))
        else:
            settlements.append(_finished(attempt, one, result, follow))
    return _billed(attempt, settlements, duration_ms)


def fail(
    attempt: Attempt, failure: Failure, follow: Follow, *, duration_ms: float = 0, used: int = 0
) -> list[Settlement]:
    """Settle it as failed: each invocation is retried, or a dead letter when its retries or its age are used up."""
    _report(attempt, duration_ms, used, "timeout" if failure.reason == "TimedOut" else "error", failure.reason)
    return _billed(attempt, [_failed(attempt, one, failure, follow) for one in attempt.claimed], duration_ms)


def bury(attempt: Attempt, failure: Failure, follow: Follow) -> list[Settlement]:
    """Settle it as a dead letter without having run it."""
    attempt.say(f"[ERROR] {_message(failure.body)}", "ERROR")
    return [_dead(attempt, one, failure, follow) for one in attempt.claimed]


def requeue(attempt: Attempt) -> list[Settlement]:
    """Settle it as interrupted by the worker's own end: it runs again at once and nothing is held against it."""
    return [
        Settlement(verdict="retry", queue=one.queue, id=one.id, execution=one.execution, reason="Interrupted")
        for one in attempt.claimed
    ]


def release(attempt: Attempt, delay: float = 0) -> list[Settlement]:
    """Give it back as if it had never been claimed, to be claimed again after so many seconds."""
    return [
        Settlement(verdict="release", queue=one.queue, id=one.id, execution=one.execution, delay=delay)
        for one in attempt.claimed
    ]


def _finished(attempt: Attempt, one: Claimed, result: bytes, follow: Follow) -> Settlement:
    destination = attempt.function.on_success
    return Settlement(
        verdict="finished",
        queue=one.queue,
        id=one.id,
        execution=one.execution,
        keep=attempt.function.keep,
        result=result,
        again=one.attempt > 1,
        told=one.told,
        orders=_onward(attempt, one, destination, "succeeded", result, follow=follow) if destination else (),
    )


def _finished_together(attempt: Attempt, result: bytes, follow: Follow) -> list[Settlement]:
    """Settle a batch of which each has finished: in one settlement those of which there is nothing else to tell."""
    settlements: list[Settlement] = []
    together: dict[tuple[str, str], list[str]] = {}
    for one in attempt.claimed:
        if one.attempt > 1 or one.told:
            settlements.append(_finished(attempt, one, result, follow))
        else:
            together.setdefault((one.queue, one.execution), []).append(one.id)
    keep = attempt.function.keep
    for (queue, execution), (first, *others) in together.items():
        settlement = Settlement(
            verdict="finished",
            queue=queue,
            id=first,
            execution=execution,
            others=tuple(others),
            keep=keep,
            result=result,
        )
        settlements.append(settlement)
    return settlements


def _failed(attempt: Attempt, one: Claimed, failure: Failure, follow: Follow) -> Settlement:
    retry, max_age = attempt.function.retry, attempt.function.max_age
    failures = one.failures + 1
    delay = retry.delay(failures)
    age = time.time() + delay - one.accepted_ms / 1000
    too_old = max_age is not None and age > max_age
    poison = failure.crashed and one.crashes + 1 >= POISON
    if failures >= retry.tries(failure.verdicts) or too_old or poison or failure.verdicts[0] == "Stopped":
        return _dead(attempt, one, failure, follow)
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


def _dead(attempt: Attempt, one: Claimed, failure: Failure, follow: Follow) -> Settlement:
    destination = attempt.function.on_failure
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
        orders=_onward(attempt, one, destination, "failed", failure.body, follow=follow) if destination else (),
    )


def _onward(
    attempt: Attempt, one: Claimed, destination: str, how: str, body: bytes, *, follow: Follow
) -> tuple[Order, ...]:
    """Return what is owed to a destination. It is owed also when the result is nested too deeply to be told."""
    try:
        return tuple(follow(destination, _outcome(attempt, one, how, body)))
    except (EventError, ValueError, RecursionError) as error:
        attempt.say(f"[ERROR] {destination} is not told the {_CALLED[how]}: {error}", "ERROR")
        return tuple(follow(destination, _outcome(attempt, one, how, b"null")))


def _outcome(attempt: Attempt, one: Claimed, how: str, body: bytes) -> Event:
    """Return the event for a destination; its id is the invocation's and attempt's, so it is taken on once."""
    data: dict[str, Any] = {
        "function": attempt.function.name,
        "invocation": one.id,
        "attempt": one.attempt,
        "event": json.loads(one.event),
        _CALLED[how]: json.loads(body),  # not msgspec: see _data_of in attempt.py
    }
    return Event(
        id=f"{one.id}-{one.attempt}",
        source=attempt.function.name,
        type=f"function.{how}",
        time=rfc3339(datetime.now(UTC)),
        data=data,
    )


def _report(attempt: Attempt, duration_ms: float, used: int, status: str, error: str = "") -> None:
    function, time_ms = attempt.function, int(time.time() * 1000)
    report = logs.report(
        attempt.id,
        duration_ms=duration_ms,
        memory=function.memory,
        used=used,
        init_ms=None if (attempt.cold or 0) < 0 else attempt.cold,
        status=status,
        error=error,
        version=function.version if function.code else "",
    )
    for text in (logs.end(attempt.id), report):
        attempt.lines.append(logs.Line(attempt.id, attempt.number, time_ms, "", text))


def _billed(attempt: Attempt, settlements: list[Settlement], duration_ms: float) -> list[Settlement]:
    """Put the attempt's bill on one settlement, the first that failed if one did; others cost nothing more."""
    number = next((n for n, one in enumerate(settlements) if one.failed), 0) if len(settlements) > 1 else 0
    settlements[number] = msgspec.structs.replace(
        settlements[number],
        billed_ms=logs.billed_ms(duration_ms) if duration_ms else 0,
        megabytes=attempt.function.memory >> 20,
        cold=attempt.cold is not None,
    )
    return settlements


def _failed_items(attempt: Attempt, result: bytes) -> set[int] | None:
    """Return the positions that AWS Lambda's partial answer names; None when it names none of this batch."""
    try:
        answer = json.loads(result)  # not msgspec: see _data_of in attempt.py
    except (ValueError, RecursionError):  # it comes from the function's process, which may say anything
        return None
    if not isinstance(answer, dict) or not answer.get("batchItemFailures"):
        return set()
    positions = {json.loads(one.event)["id"]: n for n, one in enumerate(attempt.claimed)}
    try:
        return {positions[item["itemIdentifier"]] for item in answer["batchItemFailures"]}
    except (KeyError, TypeError):
        return None


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
