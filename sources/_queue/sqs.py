"""Messages as SQS would deliver them, for `payload = "aws"`; pure.

Format: https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html#example-standard-queue-message-event
"""

from __future__ import annotations

import json
from hashlib import md5
from typing import Any

from broker.event import ATTRIBUTES
from broker.payload import REGION, CloudEvent, arn, moment
from sources._queue.item import TYPE


def delivery(event: CloudEvent, attempt: int) -> dict[str, Any]:
    """Return the delivery of one message. The messageId is the event's id, so that `batchItemFailures` can name it.

    The body is the message if that is text, else its JSON; of a CloudEvent with a type of its own the whole event.
    """
    body, sent = _body(event), str(int(moment(event).timestamp() * 1000))
    extensions = event.keys() - ATTRIBUTES - {"data", "data_base64"} if event["type"] == TYPE else ()
    record = {
        "messageId": event["id"],
        "receiptHandle": f"{event['id']}#{attempt}",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": str(attempt),
            "SentTimestamp": sent,
            "SenderId": "broker",
            "ApproximateFirstReceiveTimestamp": sent,
        },
        "messageAttributes": {name: _attribute(event[name]) for name in sorted(extensions)},
        "md5OfBody": md5(body.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": arn("sqs", event["source"]),
        "awsRegion": REGION,
    }
    return {"Records": [record]}


def _body(event: CloudEvent) -> str:
    if event["type"] != TYPE:
        return _encode(event)
    data = event.get("data", event.get("data_base64"))
    return data if isinstance(data, str) else _encode(data)


def _attribute(value: Any) -> dict[str, Any]:
    number = isinstance(value, int) and not isinstance(value, bool)
    text = value if isinstance(value, str) else _encode(value)
    return {
        "stringValue": text,
        "stringListValues": [],
        "binaryListValues": [],
        "dataType": "Number" if number else "String",
    }


def _encode(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
