"""What the HTTP source is asked and answers: requests read into events' data, results of functions into responses."""

from __future__ import annotations

import base64
import codecs
import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, UnsetType

from broker.cloudevents import is_json, media_type, parse_json
from broker.errors import BrokerError
from sources._http.route import Parameters
from sources._http.signatures import HEADERS as SIGNATURE_HEADERS

SECRET_HEADERS = SIGNATURE_HEADERS | {"authorization", "proxy-authorization", "cookie", "x-api-key", "x-gitlab-token"}
"""Headers that stay out of events, as events are kept in Redis and shown by tools; `keep_headers` lets one in."""

JSON_TYPE = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")

_TEXTUAL = ("application/xml", "application/javascript", "application/x-www-form-urlencoded", "application/yaml")
_CHARSETS = frozenset({"utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252"})
"""By Python's names. Some of the others need time that grows with the square of the length, or make half characters."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_FRAMING = frozenset(
    {"connection", "content-length", "date", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Headers that belong to the connection; a function that sets one could break it, so the server's own are sent."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request, its body not read yet."""

    method: str
    path: str
    """Percent-decoded."""
    query: bytes
    headers: Mapping[str, str]
    """Lower-case names; several of one name are joined."""
    client: str
    """The address of who is connected; behind a proxy, that is the proxy."""
    parameters: Parameters
    body: Callable[[int], Awaitable[bytes]]
    """Read the body, at the most so many bytes; raises Refused."""


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent back; the server adds the headers of the connection."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Refused(BrokerError):
    """The request is answered with an error."""

    def __init__(self, response: Response) -> None:
        """Take the answer."""
        super().__init__(f"answered with {response.status}")
        self.response = response


def say(status: int, *more_headers: tuple[bytes, bytes], **content: Any) -> Response:
    """Return a JSON response."""
    return Response(status=status, headers=[JSON_TYPE, *more_headers], body=msgspec.json.encode(content))


def headers_of(pairs: Collection[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers by lower-case name; several of one name are joined as RFC 9110 (5.3) says."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name in headers:
            value = f"{headers[name]}{'; ' if name == 'cookie' else ', '}{value}"
        headers[name] = value
    return headers


def payload_of(request: Request, body: bytes) -> Any:
    """Return the body as what its Content-Type says: a JSON value or text; UNSET for bytes, None for no body.

    Raises EventError when it says JSON and is not.
    """
    if not body:
        return None
    if request.headers.get("content-encoding", "identity") != "identity":
        return UNSET
    content_type = request.headers.get("content-type", "")
    media = media_type(content_type)
    return parse_json(body) if is_json(media) else _text(body, content_type, media)


def data_of(
    request: Request, route: str, body: bytes, payload: Any, *, keep: Collection[str], raw: bool
) -> dict[str, Any]:
    """Return the data of the event for a request.

    `{"method", "path", "route", "parameters", "query", "headers", "body" or "body_base64", "client"}`; with `raw` also
    the body exactly as it came, as `raw` or `raw_base64`. `headers_dropped` names the secret ones that were left out.
    """
    headers = dict(request.headers)
    dropped = [name for name in request.headers if name in SECRET_HEADERS and name not in keep]
    for name in dropped:
        del headers[name]
    data: dict[str, Any] = {
        "method": request.method,
        "path": request.path,
        "route": route,
        "parameters": request.parameters,
        "query": _query(request.query) if request.query else {},
        "headers": headers,
    }
    if dropped:
        data["headers_dropped"] = dropped
    if payload is UNSET:
        data["body_base64"] = base64.b64encode(body).decode()
    else:
        data["body"] = payload
    if raw:
        try:
            data["raw"] = body.decode()
        except UnicodeDecodeError:
            data["raw_base64"] = base64.b64encode(body).decode()
    data["client"] = request.client
    return data


def response_of(result: bytes) -> Response:
    """Return the response that a function's result, in JSON, stands for, as Lambda function URLs have it.

    `{"statusCode", "headers", "multiValueHeaders", "cookies", "body", "isBase64Encoded"}` is that response; any other
    value is the JSON body of a 200. Raises ValueError, saying what is wrong with the result.
    Format: https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-response-payload
    """
    value = json.loads(result)
    if not isinstance(value, dict) or "statusCode" not in value:
        return Response(status=200, headers=[JSON_TYPE], body=result)
    status, headers = _status(value["statusCode"]), _headers(value)
    if not any(name == b"content-type" for name, _ in headers):
        headers.append(JSON_TYPE)
    return Response(status=status, headers=headers, body=_body(value))


def _status(value: Any) -> int:
    status = int(value) if isinstance(value, str) and re.fullmatch("[0-9]{3}", value) else value
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"statusCode: expected a number from 200 to 599, got {value!r}")
    return status


def _headers(result: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    single, multiple, cookies = (result.get(name) for name in ("headers", "multiValueHeaders", "cookies"))
    for name, value, kind in (
        ("headers", single, dict),
        ("multiValueHeaders", multiple, dict),
        ("cookies", cookies, list),
    ):
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{name}: expected {'a list' if kind is list else 'an object'}, got {value!r}")
    several = {name.lower(): values for name, values in (multiple or {}).items()}
    pairs = [(name, value) for name, value in (single or {}).items() if name.lower() not in several]
    for name, values in several.items():
        pairs += [(name, value) for value in (values if isinstance(values, list) else [values])]
    pairs += [("set-cookie", cookie) for cookie in cookies or ()]
    return [_header(name, value) for name, value in pairs if name.lower() not in _FRAMING]


def _header(name: str, value: Any) -> tuple[bytes, bytes]:
    text = str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int | float) else value
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a header")
    if not isinstance(text, str) or _CONTROL.search(text):
        raise ValueError(f"{name}: expected one line of text, got {value!r}")
    return name.lower().encode(), text.strip().encode(errors="replace")


def _body(result: dict[str, Any]) -> bytes:
    body = result.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        raise ValueError(f"body: expected a string, got {type(body).__name__}; json.dumps makes one")  # noqa: TRY004 -- a wrong value of JSON
    if not result.get("isBase64Encoded"):
        return body.encode(errors="replace")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:
        raise ValueError("body: isBase64Encoded is true, but it is not base64") from None


def _text(body: bytes, content_type: str, media: str) -> str | UnsetType:
    """Return the body as text where its type says that it is some, or says nothing; UNSET where it is none."""
    named = re.search(r"charset\s*=\s*\"?([\w.:-]+)", content_type, re.IGNORECASE)
    if media and not named and not media.startswith("text/") and not media.endswith("+xml") and media not in _TEXTUAL:
        return UNSET
    try:
        charset = codecs.lookup(named[1]).name if named else "utf-8"
        return body.decode(charset) if charset in _CHARSETS else UNSET
    except (LookupError, ValueError):  # an unknown charset; or bytes that are not in it
        return UNSET


def _query(raw: bytes) -> dict[str, str | list[str]]:
    query: dict[str, str | list[str]] = {}
    for name, value in parse_qsl(raw.decode(errors="replace"), keep_blank_values=True):
        before = query.get(name)
        if before is None:
            query[name] = value
        elif isinstance(before, list):
            before.append(value)
        else:
            query[name] = [before, value]
    return query
