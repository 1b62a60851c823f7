"""File events: what is said about a file, and ids from which the file can be told again; pure.

An id is the file's path below the watched folder and its fingerprint, `orders/a%20b.csv:SIZE:MTIME:CTIME`. Whoever
looks at the same file, on any host, comes to the same id. Device and inode are not part of it, for these differ between
hosts that mount the same share. The time of the last status change (ctime) is part of it because moving a file keeps
its size and mtime: a file that was moved to `failed/` and is moved back is to run again.

CloudEvents wants an id to be text, and Redis bytes; percent-encoding makes any path both.
"""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from broker.event import Event, rfc3339

Change = Literal["created", "modified", "deleted"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Fingerprint(NamedTuple):
    """What tells one content of a path from another, without reading it. Times are in nanoseconds since 1970."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Fingerprint:
        """Return the fingerprint of a file."""
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def same_content(self, other: Fingerprint, *, inodes: bool) -> bool:
        """Say whether both are of the same content.

        Attributes such as permissions, and with them ctime, may differ. With `inodes`, a file that was put in the place
        of another counts as different even when size and mtime agree; that is for file systems whose inode numbers
        last. Device numbers change when a machine starts, so inodes are compared on one device only.
        """
        if (self.size, self.mtime) != (other.size, other.mtime):
            return False
        return not inodes or self.device != other.device or self.inode == other.inode


def file_event(source: str, root: str, path: str, mark: Fingerprint, change: Change, *, now: datetime) -> Event:
    """Return the event of one change; `path` is relative to `root`, both as os.fsdecode gives them.

    Its time is the file's mtime; of a deletion, which leaves no trace, it is `now`.
    """
    mtime = timestamp(mark.mtime)
    return Event(
        id=event_id(path, mark, change),
        source=source,
        type=f"file.{change}",
        # A subject is read by people and by tools that accept nothing but Unicode; the bytes are in `data`.
        subject=os.fsencode(path).decode(errors="backslashreplace"),
        time=rfc3339(now) if change == "deleted" else mtime,
        data=_data(root, path, mark.size, mtime),
    )


def event_id(path: str, mark: Fingerprint, change: Change) -> str:
    """Return the id of one change of one content of a path."""
    what = "deleted:" if change == "deleted" else ""
    return f"{quote_from_bytes(os.fsencode(path))}:{what}{mark.size}:{mark.mtime}:{mark.ctime}"


def read_id(event: str) -> tuple[str, int, int]:
    """Return path, size and mtime of a `created` or `modified` event's id. Raises ValueError when it is none."""
    quoted, size, mtime, _ = event.rsplit(":", 3)
    return os.fsdecode(unquote_to_bytes(quoted)), int(size), int(mtime)


def timestamp(nanoseconds: int) -> str | None:
    """Return a file's time as RFC 3339, or None when it is outside the years 1 to 9999, as broken clocks make it."""
    try:
        return rfc3339(_EPOCH + timedelta(microseconds=nanoseconds // 1000))
    except OverflowError:
        return None


def _data(root: str, path: str, size: int, mtime: str | None) -> dict[str, Any]:
    """Return the event's data.

    A name that is not UTF-8 has lone surrogates for its bytes, which Python's os.fsencode turns back; for other
    languages the bytes are there as base64.
    """
    absolute = f"{root}/{path}"
    folder, _, name = path.rpartition("/")
    data = {"path": absolute, "name": name, "folder": folder, "size": size, "mtime": mtime}
    try:
        absolute.encode()
    except UnicodeEncodeError:
        data["path_base64"] = base64.b64encode(os.fsencode(absolute)).decode()
    return data
