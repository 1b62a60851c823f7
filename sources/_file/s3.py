"""Files as S3 would tell of them, for `payload = "aws"`; pure.

Format: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote_from_bytes

from broker.payload import REGION, CloudEvent, digest, stamp

_NAMES = {
    "file.created": "ObjectCreated:Put",
    "file.modified": "ObjectCreated:Put",  # to S3 the second content of a key is put there like the first
    "file.deleted": "ObjectRemoved:Delete",
}


def notification(event: CloudEvent) -> dict[str, Any] | None:
    """Return the notification for a file's event; None when the event is no file's.

    The bucket has the source's name, the key is the path below the watched folder. Since that is in no S3, the object's
    `path` says where the file is, which AWS does not have. The ETag changes with the content, and is no hash of it.
    """
    name, data = _NAMES.get(event["type"]), event.get("data")
    if name is None or not isinstance(data, dict) or not isinstance(data.get("path"), str):
        return None
    etag = digest(event)
    thing: dict[str, Any] = {"key": _key(event, data), "sequencer": _sequencer(event["id"], name), "path": data["path"]}
    if name.startswith("ObjectCreated"):
        thing |= {"size": data.get("size", 0), "eTag": etag}
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": REGION,
        "eventTime": stamp(event, "milliseconds"),
        "eventName": name,
        "userIdentity": {"principalId": "broker"},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": etag[:16].upper(), "x-amz-id-2": etag},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": event["source"],
            "bucket": {
                "name": event["source"],
                "ownerIdentity": {"principalId": "broker"},
                "arn": f"arn:aws:s3:::{event['source']}",
            },
            "object": thing,
        },
    }
    return {"Records": [record]}


def _key(event: CloudEvent, data: dict[str, Any]) -> str:
    """Return the path below the folder in S3's encoding, that of forms: a space is a plus."""
    folder, name = data.get("folder"), data.get("name")
    path = f"{folder}/{name}" if folder else str(name or event.get("subject") or data["path"])
    return quote_from_bytes(path.encode(errors="surrogateescape"), safe="/*-._ ").replace(" ", "+")


def _sequencer(ident: str, name: str) -> str:
    """Return what grows with each change of a path: the time of the last one (ctime), as hexadecimal digits."""
    changed = ident.rpartition(":")[2]
    if not re.fullmatch("[0-9]{1,20}", changed):
        return f"{0:018X}"
    return f"{int(changed) + name.startswith('ObjectRemoved'):018X}"  # it was removed after it had changed
