"""Failure: an exception of a handler as AWS Lambda tells it: an error object, and lines for the log.

It runs inside the environment, so it needs nothing beyond the standard library.
"""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path

_LONGEST_MESSAGE = 64 << 10
_RUNTIME = str(Path(__file__).parent) + os.sep
_ASYNCIO = str(Path(os.__file__).parent / "asyncio") + os.sep
_NOT_THEIRS = (_RUNTIME, _ASYNCIO, "<frozen importlib")


def describe(error: BaseException) -> tuple[bytes, str]:
    """Return an exception as error JSON and as lines for the log, both without the frames of this runtime."""
    if isinstance(error, MemoryError):
        traceback.clear_frames(error.__traceback__)  # what filled the memory hangs on the frames' variables
    report = traceback.TracebackException.from_exception(error)
    _trim(report)
    kind = "OutOfMemory" if isinstance(error, MemoryError) else type(error).__name__
    message = _message(error)
    printed = f"[ERROR] {kind}: {message}\n{''.join(report.format())}"
    return body(kind, message, report.stack.format()), printed


def body(kind: str, message: str, stack: list[str] | None = None) -> bytes:
    """Return an error object: https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html."""
    error = {
        "errorMessage": _sayable(message),
        "errorType": _sayable(kind),
        "stackTrace": [*map(_sayable, stack or [])],
    }
    return json.dumps(error).encode()


def _sayable(text: str) -> str:
    """Spell out lone surrogates, such as those of a file name that is not UTF-8: no strict JSON reader takes them."""
    return text.encode(errors="backslashreplace").decode()


def _message(error: BaseException) -> str:
    try:
        return str(error)[:_LONGEST_MESSAGE]
    except Exception:  # noqa: BLE001 -- the border to the user's code: an exception that cannot be printed
        return f"<{type(error).__name__} that cannot be printed>"


def _trim(report: traceback.TracebackException) -> None:
    """Take out the frames of this runtime, here and in the exceptions that led here."""
    seen: set[int] = set()
    todo: list[traceback.TracebackException | None] = [report]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            theirs = [frame for frame in one.stack if not frame.filename.startswith(_NOT_THEIRS)]
            one.stack = traceback.StackSummary.from_list(theirs)
            todo += [one.__cause__, one.__context__, *(one.exceptions or ())]
