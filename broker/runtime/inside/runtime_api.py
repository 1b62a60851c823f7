"""Runtime API: what requests of the AWS Lambda Runtime API 2018-06-01 mean. Pure, but for the files that are watched.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html; what streams is described in
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker.runtime.inside import failure
from broker.runtime.inside.http1 import Request
from broker.runtime.inside.wire import checked_result

OK = b'{"status":"OK"}\n'

_PREFIX = "/2018-06-01/runtime/"
_ERROR_TYPE = "lambda-runtime-function-error-type"
_ERROR_BODY = "lambda-runtime-function-error-body"
_MODE = "lambda-runtime-function-response-mode"
_INTEGRATION = "application/vnd.awslambda.http-integration-response"
_END_OF_PRELUDE = b"\0" * 8
_ENDINGS = (".py", ".js", ".mjs", ".cjs", ".rb", ".sh")


class Refused(Exception):
    """The request cannot be served."""

    def __init__(self, status: str, kind: str, message: str) -> None:
        """Take the HTTP status, and type and message of the error object."""
        super().__init__(message)
        self.status = status
        self.kind = kind


def parts(request: Request) -> tuple[str, ...]:
    """Return the method, and the parts of the path below the API's version; the method alone when it is another's."""
    if not request.path.startswith(_PREFIX):
        return (request.method,)
    return (request.method, *request.path.removeprefix(_PREFIX).partition("?")[0].split("/"))


def refusal(kind: str, message: str) -> bytes:
    """Return an error object of the API."""
    return json.dumps({"errorMessage": message, "errorType": kind}).encode()


def outcome(request: Request, limit: int) -> tuple[bool, bytes]:
    """Return what a posted response stands for: the result as JSON, or the error that was found on the way.

    `limit` is how many bytes a result may have.
    What is streamed need not be JSON: then it becomes a string. A stream may end with an error, in its trailers.
    """
    if _ERROR_TYPE in request.headers:
        _, _, body = _error(_decoded(request.headers.get(_ERROR_BODY, "")), request.headers[_ERROR_TYPE])
        return False, body
    body = request.body or b"null"
    ok, result = checked_result(body, limit)
    if ok or len(body) < request.length or b"ResponseSizeTooLarge" in result:
        return ok, result
    if request.headers.get("content-type", "").startswith(_INTEGRATION):
        return _integration(body, limit)
    if request.headers.get(_MODE, "").lower() == "streaming":
        return checked_result(json.dumps(body.decode(errors="replace")).encode(), limit)
    return ok, result


def error(request: Request) -> tuple[str, str, bytes]:
    """Return type, message and error object that a posted error stands for."""
    return _error(request.body, request.headers.get(_ERROR_TYPE, ""))


def files(spec: Mapping[str, Any]) -> list[Path]:
    """Return the files of the project that the line names: the program, and what its arguments may stand for."""
    root = Path(spec["root"])
    found = []
    for word in {*spec["argv"], *spec["argv"][-1].split(), spec["variables"]["_HANDLER"]}:
        name = word.replace("'", "").replace('"', "")
        module = name.rpartition(".")[0].replace(".", "/")
        candidates = [name, *(f"{module}{ending}" for ending in _ENDINGS if module)]
        found += [path for path in (root / each for each in candidates) if path.is_file() and path.is_relative_to(root)]
    return found


def _error(body: bytes, kind: str) -> tuple[str, str, bytes]:
    """Return type, message and our error object; clients of different languages differ in what they send."""
    try:
        told = json.loads(body)
    except ValueError:
        told = {"errorMessage": body.decode(errors="replace")}
    if not isinstance(told, dict):
        told = {"errorMessage": str(told)}
    kind = str(told.get("errorType") or kind or "Unknown")
    message = str(told.get("errorMessage") or "")
    stack = told.get("stackTrace") or told.get("trace") or []
    lines = [one if isinstance(one, str) else json.dumps(one) for one in stack] if isinstance(stack, list) else []
    return kind, message, failure.body(kind, message, lines)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return text.encode()


def _integration(body: bytes, limit: int) -> tuple[bool, bytes]:
    """Return an answer for HTTP, whose status and headers are streamed before its body, as API Gateway's object."""
    prelude, _, rest = body.partition(_END_OF_PRELUDE)
    try:
        answer = json.loads(prelude)
        text, encoded = rest.decode(), False
    except UnicodeDecodeError:
        text, encoded = base64.b64encode(rest).decode(), True
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return checked_result(body, limit)
    return checked_result(json.dumps({**answer, "body": text, "isBase64Encoded": encoded}).encode(), limit)
