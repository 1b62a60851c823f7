"""Payload: what AWS would have handed to a function; pure.

`payload = "aws"` gives a function the shape that AWS' own sources have, so that libraries for AWS Lambda read it. What
a source's events look like is the source's to say (`Source.aws`); here is what all of them share, and the shapes of
events that come from no source.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Protocol
from uuid import UUID

REGION = "local"
ACCOUNT = "000000000000"

CloudEvent = Mapping[str, Any]
"""A CloudEvents record, as `json.loads` makes it."""

_EPOCH = datetime.fromtimestamp(0, UTC)


class Shaper(Protocol):
    """A source, as far as it matters here."""

    def aws(self, event: dict[str, Any], attempt: int) -> Any:
        """Return what AWS would have sent instead of the event."""


def compose(events: Iterable[tuple[bytes, int]], sources: Mapping[str, Shaper], *, batch: bool) -> bytes:
    """Return what the handler gets, as JSON, for some events (each with the number of its attempt).

    AWS has batches as `{"Records": [...]}` alone: the records of several events are put together. Other shapes of a
    batch are handed over as a list. Raises whatever a source raises, TypeError and ValueError when that is not JSON.
    """
    shapes = [_shape(json.loads(event), attempt, sources) for event, attempt in events]
    if len(shapes) > 1 and all(_has_records(one) for one in shapes):
        return _encode({"Records": [record for one in shapes for record in one["Records"]]})
    if batch and not all(_has_records(one) for one in shapes):
        return _encode(shapes)
    return _encode(shapes[0])


def arn(service: str, resource: str, region: str = REGION) -> str:
    """Return the Amazon Resource Name of something of ours: `arn:aws:lambda:local:000000000000:function:thumbnail`."""
    return f"arn:aws:{service}:{region}:{ACCOUNT}:{resource}"


def moment(event: CloudEvent) -> datetime:
    """Return the event's time, in UTC; 1970 when it has none."""
    try:
        return datetime.fromisoformat(event["time"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):  # CloudEvents of others are not checked for it
        return _EPOCH


def stamp(event: CloudEvent, timespec: str) -> str:
    """Return the event's time as AWS writes it: `2026-11-23T09:23:42Z`, or with `milliseconds`."""
    return moment(event).isoformat(timespec=timespec).replace("+00:00", "Z")


def digest(event: CloudEvent) -> str:
    """Return 32 hexadecimal digits that stand for the event: the same each time, others for any other event."""
    text = f"{event['source']}\0{event['id']}"
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def eventbridge(event: CloudEvent) -> dict[str, Any]:
    """Return the event as EventBridge would deliver it; it suits any event.

    Format: https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html
    """
    data = event.get("data", event.get("data_base64"))
    return {
        "version": "0",
        "id": str(UUID(digest(event), version=4)),
        "detail-type": event["type"],
        "source": event["source"],
        "account": ACCOUNT,
        "time": stamp(event, "seconds"),
        "region": REGION,
        "resources": [event["subject"]] if event.get("subject") else [],
        "detail": data if isinstance(data, dict) else {"data": data},  # AWS has objects there and nothing else
    }


def destination(event: CloudEvent) -> dict[str, Any]:
    """Return the end of another function as AWS Lambda tells it to a destination.

    Format: https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
    """
    data = event["data"]
    ok = event["type"] == "function.succeeded"
    function = arn("lambda", f"function:{data['function']}:$LATEST")
    response = {"statusCode": 200, "executedVersion": "$LATEST"}
    return {
        "version": "1.0",
        "timestamp": stamp(event, "milliseconds"),
        "requestContext": {
            "requestId": data["invocation"],
            "functionArn": function,
            "condition": "Success" if ok else _CONDITIONS.get(data["error"].get("errorType"), "RetriesExhausted"),
            "approximateInvokeCount": data["attempt"],
        },
        "requestPayload": data["event"],
        "responseContext": response if ok else {**response, "functionError": "Unhandled"},
        "responsePayload": data["result"] if ok else data["error"],
    }


_CONDITIONS = {"Expired": "EventAgeExceeded"}


def _shape(event: dict[str, Any], attempt: int, sources: Mapping[str, Shaper]) -> Any:
    kind, source = event["type"], event["source"]
    if kind == "invoke" and source == "cli":  # `aws lambda invoke` hands over what it is given, as it is
        return event.get("data")
    if source in sources:
        return sources[source].aws(event, attempt)
    if kind in {"function.succeeded", "function.failed"}:
        try:
            return destination(event)
        except (KeyError, TypeError, AttributeError):  # somebody else's event of that name
            return eventbridge(event)
    return eventbridge(event)


def _has_records(shape: Any) -> bool:
    return isinstance(shape, dict) and isinstance(shape.get("Records"), list)


def _encode(value: Any) -> bytes:
    # Not msgspec: it refuses the lone surrogates that stand for a file name's bytes; see broker/event.py.
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
