"""Journal: which contents a file source has published, in Redis; one hash, a field for each path.

A path is a field only after its event is in Redis, so a crash in between publishes the event a second time under the
same id, which the ledger refuses. Nothing here reads the whole hash at once: a folder may hold very many files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sources._file.event import Fingerprint

if TYPE_CHECKING:
    from redis import Redis

PAGE = 1000
"""How many fields are asked for in one round trip."""


class Journal:
    """The hash `broker:source:NAME:files`: path -> `device inode size mtime ctime`."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        """Take a client without `decode_responses`, and the source's prefix."""
        # redis-py types its answers as those of the blocking and of the asyncio client at once.
        self._redis: Any = redis
        self._key = f"{prefix}files"

    def marks(self, paths: Sequence[str]) -> list[Fingerprint | None]:
        """Return what is known of each path; None: nothing."""
        found: list[Fingerprint | None] = []
        for start in range(0, len(paths), PAGE):
            fields = [os.fsencode(path) for path in paths[start : start + PAGE]]
            found += map(_decode, self._redis.hmget(self._key, fields))
        return found

    def note(self, marks: Mapping[str, Fingerprint]) -> None:
        """Write down what was published."""
        if marks:
            entries = {os.fsencode(path): b"%d %d %d %d %d" % mark for path, mark in marks.items()}
            self._redis.hset(self._key, mapping=entries)

    def forget(self, paths: Iterable[str]) -> None:
        """Take paths out: what comes there next is new."""
        fields = [os.fsencode(path) for path in paths]
        if fields:
            self._redis.hdel(self._key, *fields)

    def count(self) -> int:
        """Return how many paths are known."""
        return int(self._redis.hlen(self._key))

    def pages(self) -> Iterator[dict[str, Fingerprint]]:
        """Yield all that is known, some thousand paths at a time; paths may be forgotten meanwhile."""
        cursor = 0
        while True:
            cursor, page = self._redis.hscan(self._key, cursor, count=PAGE)
            marks = ((os.fsdecode(field), _decode(value)) for field, value in page.items())
            yield {path: mark for path, mark in marks if mark}
            if cursor == 0:
                return


def _decode(value: bytes | None) -> Fingerprint | None:
    try:
        return Fingerprint(*map(int, value.split())) if value else None
    except (TypeError, ValueError):
        return None  # not one of ours: as if it were not there, so the file's event is published once more
