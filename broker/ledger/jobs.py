"""Jobs: what RQ keeps of an invocation: the call, with the event and what its caller said of itself."""

from __future__ import annotations

import zlib

import msgspec


class _Named(msgspec.Struct):
    """The named arguments of `broker.invoke`."""

    client_context: msgspec.Raw = msgspec.Raw()
    qualifier: str = ""


def job_data(function: str, event: bytes, client: bytes = b"", qualifier: str = "") -> bytes:
    """Return RQ's job data for one invocation: `["broker.invoke", null, ["FUNCTION", EVENT], {}]`.

    It is what RQ's JSONSerializer would write for a call of `broker.invoke(function, event)`; a `client`, as JSON, is
    its third argument, `client_context=CLIENT`, and an alias or version its fourth, `qualifier="3"`.
    """
    named = [b'"client_context":%b' % client] if client else []
    if qualifier:
        named.append(b'"qualifier":"%b"' % qualifier.encode())
    more = b",".join(named)
    return b'["broker.invoke",null,["%b",%b],{%b}]' % (function.encode(), event, more)


def event_of(data: bytes, function: str) -> bytes:
    """Return the event of RQ's job data. Raises ValueError when it is not ours."""
    return call_of(data, function)[0]


def call_of(data: bytes, function: str) -> tuple[bytes, bytes, str]:
    """Return event, client and qualifier of RQ's job data, as a rule without reading the JSON.

    RQ compresses the data when one of its own tools has saved the job. Raises ValueError when it is not ours.
    """
    if not data.startswith(b"["):
        data = zlib.decompress(data)
    start, end = around_event(function)
    if data.startswith(start) and data.endswith(end):
        return data[len(start) : -len(end)], b"", ""
    name, _, arguments, named = msgspec.json.decode(data, type=tuple[str, object, list[msgspec.Raw], _Named])
    if name != "broker.invoke" or len(arguments) != 2:
        raise ValueError(f"not an invocation of {function}")
    return bytes(arguments[1]), bytes(named.client_context), named.qualifier


def around_event(function: str) -> tuple[bytes, bytes]:
    """Return what stands before the event and behind it in the job data of an invocation of which no more is said."""
    return b'["broker.invoke",null,["%b",' % function.encode(), b"],{}]"


def function_of(queue: str) -> str:
    """Return the function whose queue this is: `thumbnail` for `thumbnail.high`."""
    return queue.partition(".")[0]
