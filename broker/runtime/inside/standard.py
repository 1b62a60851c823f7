"""Standard: what a handler finds around it: the context object, stdout and stderr, logging.

It runs inside the environment, so it needs nothing beyond the standard library.
"""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

_CLIENT = ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")


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
    identity = SimpleNamespace(cognito_identity_id=None, cognito_identity_pool_id=None)
    client_context: SimpleNamespace | None = None
    """What the caller said of itself, with `custom`, `env` and `client`; None when it said nothing."""

    def __init__(self, invocation: str, attempt: int, deadline: float) -> None:
        """Take the invocation's id, the number of the attempt (1 is the first) and the monotonic end of its time."""
        self.aws_request_id = invocation
        self.attempt = attempt
        self._deadline = deadline

    def get_remaining_time_in_millis(self) -> int:
        """Return how many milliseconds the attempt has left."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))

    def log(self, message: str) -> None:
        """Print a message."""
        sys.stdout.write(f"{message}\n")


def context_type(variables: Mapping[str, str], arn: str) -> type[Context]:
    """Return the class of one function's contexts; what is the same for all of them is set once."""
    fields = {
        "function_name": variables["AWS_LAMBDA_FUNCTION_NAME"],
        "function_version": variables["AWS_LAMBDA_FUNCTION_VERSION"],
        "invoked_function_arn": arn,
        "memory_limit_in_mb": int(variables["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]),
        "log_group_name": variables["AWS_LAMBDA_LOG_GROUP_NAME"],
        "log_stream_name": variables["AWS_LAMBDA_LOG_STREAM_NAME"],
    }
    return type("LambdaContext", (Context,), fields)


def client_context(given: Mapping[str, Any]) -> SimpleNamespace:
    """Return what a caller said of itself as AWS Lambda's object, with `custom`, `env` and `client`."""
    client = given.get("client")
    if isinstance(client, dict):
        client = SimpleNamespace(**{**dict.fromkeys(_CLIENT), **client})
    return SimpleNamespace(custom=given.get("custom"), env=given.get("env"), client=client)


def trace_id(invocation: str) -> str:
    """Return the trace header of an invocation: AWS X-Ray's form, made of its id, and never sampled.

    https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
    """
    return f"Root=1-{invocation[:8]}-{invocation[8:]};Parent={invocation[-16:]};Sampled=0"


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
