"""Event: what happened, as a CloudEvents 1.0 record; encode, decode, and ids that repeat themselves.

Format: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from __future__ import annotations

import json
import os
import random
import time as clock
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from broker.errors import EventError

SPECVERSION = "1.0"

ATTRIBUTES = frozenset({"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"})
"""The context attributes that the specification names; all others are extensions."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened.

    `source` is the name of the broker's source (`inbox`); `id` is unique within it. `data` is any JSON value; bytes
    travel as base64 text in `data_base64`, as the JSON format has it. `extensions` are further CloudEvents
    attributes (lower-case letters and digits), flattened into the record when encoded.
    """

    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    """RFC 3339, in UTC."""
    datacontenttype: str | None = None
    dataschema: str | None = None
    data: Any = None
    data_base64: str | None = None
    extensions: dict[str, str | int | bool] = {}
    is_json: bool = False
    """Whether all of it is known to be JSON, as what a parser of JSON returns is: it is encoded faster then."""

    def record(self) -> dict[str, Any]:
        """Return the CloudEvents record: a flat dictionary with only the attributes that are set."""
        record: dict[str, Any] = {"specversion": SPECVERSION, "id": self.id, "source": self.source, "type": self.type}
        for name in ("subject", "time", "datacontenttype", "dataschema"):
            if (value := getattr(self, name)) is not None:
                record[name] = value
        record.update(self.extensions)
        if self.data_base64 is not None:
            record["data_base64"] = self.data_base64
        else:
            record["data"] = self.data
        return record

    def sent_to(self, queue: str) -> Event:
        """Return the event as a message of a queue source: that source's name, type `queue.message`."""
        return msgspec.structs.replace(self, source=queue, type="queue.message")

    def encode(self) -> bytes:
        """Return the event in CloudEvents' JSON format.

        Raises EventError when the data holds something that JSON cannot say (NaN, infinity, an unknown type).
        """
        return self.encode_record(self.record())

    def encode_record(self, record: dict[str, Any]) -> bytes:
        """Do the same with the record, which the caller has already."""
        try:
            return _encode_json(record) if self.is_json else _encode(record).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise EventError(f"the data of event {self.id!r} is not JSON: {error}") from error


# The standard library's encoder: msgspec would turn NaN into null without a word, and refuse the lone surrogates that
# stand for the bytes of a file name that is not UTF-8.
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_encode_json = msgspec.json.Encoder().encode


_random = random.Random(os.urandom(32))  # noqa: S311 -- ids must be unique; they are no secrets
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def random_id() -> str:
    """Return an id that nobody else has: 32 hexadecimal digits.

    Not from the system each time: that call lets go of the interpreter's lock, and a busy thread waits to get it back.
    """
    return f"{_random.getrandbits(128):032x}"


def new_event(
    *,
    source: str,
    type: str,  # noqa: A002 -- CloudEvents' own name
    id: str | None = None,  # noqa: A002 -- CloudEvents' own name
    subject: str | None = None,
    data: Any = None,
    time: datetime | None = None,
    is_json: bool = False,
) -> Event:
    """Return an event of this moment; without an `id` it gets a random one."""
    return Event(
        id=id or random_id(),
        source=source,
        type=type,
        subject=subject,
        time=rfc3339(time) if time else rfc3339_now(),
        data=data,
        is_json=is_json,
    )


def decode(raw: bytes | str | dict[str, Any]) -> Event:
    """Read an event in CloudEvents' JSON format.

    Raises EventError, which says what is wrong with which attribute.
    """
    record = raw
    if not isinstance(record, dict):
        try:
            record = json.loads(record)
        except (ValueError, RecursionError) as error:
            raise EventError(f"not JSON: {error}") from error
        if not isinstance(record, dict):
            raise EventError(f"expected a JSON object, got {type(record).__name__}")
    _check_attributes(record)
    known = ATTRIBUTES | {"data", "data_base64"}
    extensions = {name: value for name, value in record.items() if name not in known and value is not None}
    _check_extensions(extensions)
    return Event(
        id=record["id"],
        source=record["source"],
        type=record["type"],
        subject=record.get("subject"),
        time=record.get("time"),
        datacontenttype=record.get("datacontenttype"),
        dataschema=record.get("dataschema"),
        data=record.get("data"),
        data_base64=record.get("data_base64"),
        extensions=extensions,
    )


def _check_attributes(record: dict[str, Any]) -> None:
    if record.get("specversion") != SPECVERSION:
        raise EventError(f"specversion: expected {SPECVERSION!r}, got {record.get('specversion')!r}")
    for name in ("id", "source", "type"):
        if not isinstance(record.get(name), str) or not record[name]:
            raise EventError(f"{name}: expected a non-empty string, got {record.get(name)!r}")
    for name in ("subject", "time", "datacontenttype", "dataschema", "data_base64"):
        if not isinstance(record.get(name), str | None):
            raise EventError(f"{name}: expected a string, got {record[name]!r}")
    if "data" in record and record.get("data_base64") is not None:
        raise EventError("data and data_base64 exclude each other")


def _check_extensions(extensions: dict[str, Any]) -> None:
    for name, value in extensions.items():
        if not (name.isascii() and name.isalnum() and name == name.lower()):
            raise EventError(f"{name!r}: an attribute's name is lower-case letters and digits")
        if not isinstance(value, str | int | bool):
            raise EventError(f"{name}: expected a string, a number or a boolean, got {value!r}")


def invocation_id(function: str, event: Event) -> str:
    """Return the id of the invocation that `function` owes to `event`: 32 hexadecimal digits.

    It depends on nothing else, so whoever publishes the same event again, on any host, asks for the same invocation
    and the ledger refuses the second. An event is the same when source and id are (CloudEvents 1.0, "id").
    """
    return blake2b(
        f"{function}\0{event.source}\0{event.id}".encode(errors="surrogateescape"), digest_size=16
    ).hexdigest()


def rfc3339(moment: datetime) -> str:
    """Return the moment in UTC as `2026-11-23T07:51:07.123456Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def rfc3339_now() -> str:
    """Return this moment in the same form, made for many events: its calendar only once a second."""
    seconds, nanoseconds = divmod(clock.time_ns(), 1_000_000_000)
    return f"{_second(seconds)}.{nanoseconds // 1000:06}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return clock.strftime("%Y-%m-%dT%H:%M:%S", clock.gmtime(seconds))
