"""HTTP/1.1 as the clients of the AWS Lambda Runtime API speak it: requests cut out of what a socket delivers. Pure.

It runs inside environments, so it needs nothing beyond the standard library; http.server would take megabytes.
https://www.rfc-editor.org/rfc/rfc9112
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_LONGEST_HEAD = 64 << 10
_END_OF_HEAD = b"\r\n\r\n"


class BadRequest(ValueError):
    """What came is not a request."""


@dataclass(kw_only=True)
class Request:
    """One request, complete."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By lower-case name; of a chunked body also the trailers, once it is complete."""
    body: bytes = b""
    length: int = 0
    """How long the body was; what is beyond the reader's limit is not in it."""

    @property
    def keeps(self) -> bool:
        """Whether another one may follow over the same connection."""
        return self.headers.get("connection", "").lower() != "close"


@dataclass(kw_only=True)
class _Body:
    """A body under way."""

    request: Request
    chunked: bool
    left: int
    """Bytes of the body, or of the chunk, that have not come yet."""
    pieces: list[bytes] = field(default_factory=list)
    trailing: bool = False
    """The last chunk was read; trailers follow."""


class RequestReader:
    """Cuts what a socket delivers into requests; of a body no more than `limit` bytes are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._body: _Body | None = None
        self.expecting = False
        """Whether the client waits for `100 Continue`; the caller answers and sets it back."""

    @property
    def unfinished(self) -> Request | None:
        """The request whose body has not come in whole."""
        return self._body.request if self._body else None

    def feed(self, data: bytes) -> list[Request]:
        """Take the next bytes; return the requests that they complete. Raises BadRequest."""
        self._data += data
        found = []
        while (request := self._next()) is not None:
            found.append(request)
        return found

    def _next(self) -> Request | None:
        if self._body is None:
            self._body = self._head()
        body = self._body
        if body is None or not (self._chunks(body) if body.chunked else self._piece(body)):
            return None
        self._body = None
        self.expecting = False
        body.request.body = b"".join(body.pieces)
        return body.request

    def _head(self) -> _Body | None:
        end = self._data.find(_END_OF_HEAD)
        if end < 0:
            if len(self._data) > _LONGEST_HEAD:
                raise BadRequest("headers without an end")
            return None
        first, *lines = self._data[:end].decode("latin-1").split("\r\n")
        del self._data[: end + len(_END_OF_HEAD)]
        try:
            method, path, version = first.split(" ")
        except ValueError:
            raise BadRequest("not a request line") from None
        headers = _fields(lines)
        if version == "HTTP/1.0":
            headers.setdefault("connection", "close")
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self.expecting = headers.get("expect", "").lower() == "100-continue"
        left = 0 if chunked else _number(headers.get("content-length", "0"), 10)
        return _Body(request=Request(method=method, path=path, headers=headers), chunked=chunked, left=left)

    def _piece(self, body: _Body) -> bool:
        """Take what there is of the body or chunk; return whether that was all of it."""
        if piece := bytes(self._data[: body.left]):
            del self._data[: body.left]
            body.left -= len(piece)
            body.pieces.append(piece[: max(0, self._limit - body.request.length)])
            body.request.length += len(piece)
        return not body.left

    def _chunks(self, body: _Body) -> bool:
        """Take what there is of the chunks; return whether the last one and the trailers have come."""
        while self._piece(body):
            end = self._data.find(b"\r\n")
            if end < 0:
                if len(self._data) > _LONGEST_HEAD:
                    raise BadRequest("a chunk without a size")
                return False
            line = self._data[:end].decode("latin-1")
            del self._data[: end + 2]
            if body.trailing:
                if not line:
                    return True
                body.request.headers = {**body.request.headers, **_fields([line])}
            elif line:  # an empty one ends the chunk before
                body.left = _number(line.partition(";")[0].strip(), 16)
                body.trailing = not body.left
        return False


def _fields(lines: list[str]) -> dict[str, str]:
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _number(text: str, base: int) -> int:
    if not text.isalnum():  # a sign, `1_000`
        raise BadRequest("not a length")
    try:
        return int(text, base)
    except ValueError:
        raise BadRequest("not a length") from None


def response(status: str, body: bytes = b"", *, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a response; the body is JSON."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
