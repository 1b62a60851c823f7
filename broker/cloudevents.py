"""CloudEvents over HTTP: read the events that a request carries, in binary, structured or batched mode. Pure.

Format: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from broker.errors import EventError
from broker.event import Event, decode, rfc3339

_STRUCTURED = "application/cloudevents"
_BATCH = "application/cloudevents-batch"
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:)(\d\d)((?:\.\d+)?(?:Z|[+-]\d\d:\d\d))", re.IGNORECASE | re.ASCII)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def media_type(content_type: str) -> str:
    """Return `application/json` of `Application/JSON; charset=utf-8`."""
    return content_type.partition(";")[0].strip().lower()


def is_json(media: str) -> bool:
    """Return whether a media type stands for JSON: `application/json`, `text/json` or any `+json`."""
    return media.endswith(("/json", "+json"))


def carries(headers: Mapping[str, str]) -> bool:
    """Return whether the request says that it carries CloudEvents. Header names are lower-case."""
    return "ce-specversion" in headers or media_type(headers.get("content-type", "")).startswith(_STRUCTURED)


def is_batch(headers: Mapping[str, str]) -> bool:
    """Return whether the request carries any number of events, rather than one."""
    return media_type(headers.get("content-type", "")).startswith(_BATCH)


def read(headers: Mapping[str, str], body: bytes) -> list[Event]:
    """Return the events of a request as they were sent; a batch may be empty, the other modes give one.

    Header names are lower-case. Raises EventError, which says what is wrong with which attribute; one bad event
    refuses the whole batch, so that a sender never has to guess which were taken.
    """
    media = media_type(headers.get("content-type", ""))
    if not media.startswith(_STRUCTURED):
        return [_checked(_binary(headers, body))]
    if media not in {f"{_STRUCTURED}+json", f"{_BATCH}+json"}:
        raise EventError(f"expected the event format {_STRUCTURED}+json or {_BATCH}+json, got {media}")
    parsed = parse_json(body)
    if media == f"{_STRUCTURED}+json":
        return [_checked(_record(parsed))]
    if not isinstance(parsed, list):
        raise EventError(f"a batch is a JSON array, got {type(parsed).__name__}")
    return [_checked(_record(one)) for one in parsed]


def adopt(event: Event, source: str) -> Event:
    """Return the event as the broker's source of that name publishes it.

    CloudEvents are the same when `source` and `id` both are; the broker's `source` is the name in config.toml. So the
    two become the new id, `SOURCE|ID`, and are kept as the extensions `cesource` and `ceid`.
    """
    return msgspec.structs.replace(
        event,
        # No vertical bar stands in a URI (see _checked), so two different pairs never make the same id.
        id=f"{event.source}|{event.id}",
        source=source,
        extensions={**event.extensions, "cesource": event.source, "ceid": event.id},
    )


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON text. Raises EventError where it is none, or nested too deeply."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EventError(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise EventError("the body is JSON nested too deeply") from None


def _binary(headers: Mapping[str, str], body: bytes) -> Event:
    if "ce-datacontenttype" in headers:
        raise EventError("datacontenttype: in binary mode the header Content-Type says it")
    record: dict[str, Any] = {
        name[3:]: _decoded(name[3:], value) for name, value in headers.items() if name.startswith("ce-")
    }
    if "data" in record:
        raise EventError("data: in binary mode the body is the data")
    content_type = headers.get("content-type")
    if content_type:
        record["datacontenttype"] = content_type
    media = media_type(content_type or "")
    if not body:
        pass
    elif is_json(media):
        record["data"] = parse_json(body)
    elif media.startswith("text/") or media.endswith(("/xml", "+xml")):
        try:
            record["data"] = body.decode()
        except UnicodeDecodeError:
            record["data_base64"] = base64.b64encode(body).decode()
    else:
        record["data_base64"] = base64.b64encode(body).decode()
    return decode(record)


def _decoded(name: str, value: str) -> str:
    """Undo the quoting and percent-encoding of section 3.1.3.2; UTF-8 that is none must be refused."""
    if quoted := _QUOTED.fullmatch(value):
        value = re.sub(r"\\(.)", r"\1", quoted[1])
    try:
        # HTTP servers hand over header bytes as Latin-1; some senders write plain UTF-8 there.
        return unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeError:
        raise EventError(f"{name}: the header's value is not percent-encoded UTF-8") from None


def _record(parsed: Any) -> Event:
    if not isinstance(parsed, dict):
        raise EventError(f"expected a JSON object, got {type(parsed).__name__}")
    try:
        base64.b64decode(parsed.get("data_base64") or "", validate=True)
    except (ValueError, TypeError):
        raise EventError("data_base64: expected base64 text") from None
    # JSON's null says that an attribute is not there.
    return decode({name: value for name, value in parsed.items() if value is not None})


def _checked(event: Event) -> Event:
    """Return the event with its time in UTC; raise EventError for what the JSON schema of CloudEvents forbids."""
    for name in ("subject", "datacontenttype", "dataschema"):
        if getattr(event, name) == "":
            raise EventError(f"{name}: expected a non-empty string, or no such attribute")
    if "|" in event.source:
        raise EventError(f"source: expected a URI reference, got {event.source!r}")
    if event.time is None:
        return event
    if not (match := _RFC3339.fullmatch(event.time)):
        raise EventError(f"time: expected a time such as 2026-11-23T07:51:07Z, got {event.time!r}")
    before, seconds, after = match.groups()
    try:
        # RFC 3339 knows leap seconds, Python does not.
        moment = rfc3339(datetime.fromisoformat(f"{before}{'59' if seconds == '60' else seconds}{after}".upper()))
    except (ValueError, OverflowError):
        raise EventError(f"time: there is no such time as {event.time!r}") from None
    return event if event.time.endswith("Z") else msgspec.structs.replace(event, time=moment)
