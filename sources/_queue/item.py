"""Queue items: from what a Redis client pushed to an event, or to the reason why it is none; pure."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, cast

import msgspec

from broker import cloudevents as cloudevents_http
from broker.errors import EventError
from broker.event import Event, new_event, rfc3339
from broker.names import nearest
from broker.quantity import Duration, Size
from broker.source import Publishing

TYPE = "queue.message"

ID_LENGTH = 255
LONGEST_DELAY = Duration(10 * 365 * 86400)

_OPTIONS = ("id", "delay", "priority")
_PRIORITIES = ("high", "normal", "low")
_ENTRY = re.compile(rb"(\d{1,20})-\d{1,20}")
_STRUCTURED = {"content-type": "application/cloudevents+json"}

Fields = tuple[tuple[bytes, bytes], ...]


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One item as it stands in Redis, taken and not yet settled."""

    place: Literal["list", "stream"]
    key: bytes
    """What it is settled by: the number of a list's item, the id of a stream's entry."""
    fields: Fields
    """Name and value of each field; of a list's item only `data`."""
    size: int
    """Bytes; more than `fields` hold when it was too large to be taken."""

    @property
    def event(self) -> str:
        """The id of its event, unless the item brings its own; the same however often the item is read."""
        return f"{self.place}-{self.key.decode()}"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """An item that can be published."""

    item: Item
    event: Event
    how: Publishing


def read(item: Item, source: str, *, limit: int, now: datetime) -> Message:
    """Return the item as an event of the source of that name.

    `limit` is the largest size in bytes. Raises EventError, which says what is wrong with the item.
    """
    if item.size > limit:
        raise EventError(f"{item.size} bytes; the queue takes {Size(limit)} (max_item)")
    fields = _by_name(item)
    if "data" not in fields:
        data: Any = {name: _text(name, value) for name, value in fields.items()}
        return Message(item=item, event=_event(item, source, data, None, now), how=Publishing())
    if unknown := [name for name in fields if name != "data" and name not in _OPTIONS]:
        hint = nearest(unknown[0], _OPTIONS) or "beside data there are id, delay and priority"
        raise EventError(f"unknown field {unknown[0]!r}: {hint}")
    ident = _id(fields)
    how = Publishing(delay=_delay(fields), priority=_priority(fields))
    data = _json(fields["data"])
    if not (isinstance(data, dict) and "specversion" in data):
        return Message(item=item, event=_event(item, source, data, ident, now), how=how)
    if ident is not None:
        raise EventError("id: a CloudEvent has its own")
    # The rules for a CloudEvent in a JSON text are the same as in the body of a request.
    event = cloudevents_http.read(_STRUCTURED, fields["data"])[0]
    return Message(item=item, event=cloudevents_http.adopt(event, source), how=how)


def bad_record(item: Item, why: str, *, now: datetime) -> bytes:
    """Return what is kept of an item that is no event, as JSON.

    `{"why", "time", "place", "key", "size"}`, then the item: `item`, or `item_base64` when it is not UTF-8; for an
    entry of the stream `fields`, or `fields_base64`, in which both names and values are base64.
    """
    record: dict[str, Any] = {
        "why": why,
        "time": rfc3339(now),
        "place": item.place,
        "key": item.key.decode(),
        "size": item.size,
    }
    try:
        pairs = [[name.decode(), value.decode()] for name, value in item.fields]
        kind = ""
    except UnicodeDecodeError:
        pairs = [[base64.b64encode(name).decode(), base64.b64encode(value).decode()] for name, value in item.fields]
        kind = "_base64"
    record.update({f"item{kind}": pairs[0][1]} if item.place == "list" else {f"fields{kind}": pairs})
    return msgspec.json.encode(record)


def grouped(messages: Sequence[Message]) -> list[list[Message]]:
    """Return the messages in groups of one way to publish, each in its order; what is more urgent comes first."""
    groups: dict[tuple[int, float], list[Message]] = {}
    for message in messages:
        how = message.how
        groups.setdefault((_PRIORITIES.index(how.priority), how.delay), []).append(message)
    return [groups[key] for key in sorted(groups)]


def _event(item: Item, source: str, data: Any, ident: str | None, now: datetime) -> Event:
    moment = _moment(item.key) if item.place == "stream" else None
    return new_event(source=source, type=TYPE, id=ident or item.event, data=data, time=moment or now)


def _moment(entry: bytes) -> datetime | None:
    """Return the time at which an entry of a stream was added; None when its producer made up an id that is no time."""
    match = _ENTRY.fullmatch(entry)
    try:
        return datetime.fromtimestamp(int(match[1]) / 1000, UTC) if match else None
    except (OverflowError, ValueError, OSError):
        return None


def _by_name(item: Item) -> dict[str, bytes]:
    names = Counter(name for name, _ in item.fields)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise EventError(f"the field {_text('name', twice[0])!r} is there twice")
    return {_text("the name of a field", name): value for name, value in item.fields}


def _json(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EventError(f"not JSON: {error}") from None
    except RecursionError:
        raise EventError("JSON nested too deeply") from None


def _text(what: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise EventError(f"{what}: not UTF-8: {error}") from None


def _id(fields: dict[str, bytes]) -> str | None:
    if "id" not in fields:
        return None
    ident = _text("id", fields["id"])
    if not 0 < len(ident) <= ID_LENGTH:
        raise EventError(f"id: expected 1 to {ID_LENGTH} characters, got {len(ident)}")
    return ident


def _delay(fields: dict[str, bytes]) -> float:
    if "delay" not in fields:
        return 0
    text = _text("delay", fields["delay"])
    try:
        delay = float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text) else float(Duration.parse(text))
    except ValueError:
        raise EventError(f'delay: expected seconds, or a duration such as "5m", got {text!r}') from None
    if delay > LONGEST_DELAY:
        raise EventError(f"delay: expected at most {LONGEST_DELAY}, got {text!r}")
    return delay


def _priority(fields: dict[str, bytes]) -> Literal["high", "normal", "low"]:
    text = _text("priority", fields.get("priority", b"normal"))
    if text not in _PRIORITIES:
        raise EventError(f"priority: expected high, normal or low, got {text!r}")
    return cast("Literal['high', 'normal', 'low']", text)
