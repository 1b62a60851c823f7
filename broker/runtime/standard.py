"""Standard: what a handler finds around it: the context object, stdout and stderr, logging.

It runs inside the environment, so it needs nothing beyond the standard library.
"""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Mapping


class Context:
    """What a handler gets as its second argument; the names are AWS Lambda's, except for `attempt`.

    https://docs.aws.amazon.com/lambda/latest/dg/python-context.html
    """

    function_name = ""
    function_version = "$LATEST"
    invoked_function_arn = ""
    memory_limit_in_mb = 0
    log_group_name = ""
    log_stream_name = ""
    identity = None
    client_context = None

    def __init__(self, invocation: str, attempt: int, deadline: float) -> None:
        """Take the invocation's id, the number of the attempt (1 is the first) and the monotonic end of its time."""
        self.aws_request_id = invocation
        self.attempt = attempt
        self._deadline = deadline

    def get_remaining_time_in_millis(self) -> int:
        """Return how many milliseconds the attempt has left."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def context_type(variables: Mapping[str, str]) -> type[Context]:
    """Return the class of one function's contexts; what is the same for all of them is set once."""
    name = variables["AWS_LAMBDA_FUNCTION_NAME"]
    fields = {
        "function_name": name,
        "invoked_function_arn": f"arn:aws:lambda:local:000000000000:function:{name}",
        "memory_limit_in_mb": int(variables["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]),
        "log_group_name": variables["AWS_LAMBDA_LOG_GROUP_NAME"],
        "log_stream_name": variables["AWS_LAMBDA_LOG_STREAM_NAME"],
    }
    return type("LambdaContext", (Context,), fields)


def open_streams() -> tuple[io.TextIOWrapper, io.TextIOWrapper]:
    """Set up stdout and stderr, so that each line can be read as soon as it is printed."""
    out, err = (_stream(descriptor) for descriptor in (1, 2))
    sys.stdout = sys.__stdout__ = out  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = err  # type: ignore[misc]
    return out, err


def log_to(stream: io.TextIOWrapper) -> None:
    """Let `logging` print `[LEVEL]`, a tab and the message; from INFO on, unless the function says otherwise."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("[%(levelname)s]\t%(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def _stream(descriptor: int) -> io.TextIOWrapper:
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
