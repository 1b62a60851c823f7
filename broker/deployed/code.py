"""Code: zips of deployed functions in Redis, in pieces, under the hash of the whole.

`broker:code:HASH` is a hash of numbered pieces and `pieces`, their number. Until a version refers to it, it expires an
hour after the last piece: what a deploy that was killed has left goes by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.errors import BadArchive
from broker.ledger import available

if TYPE_CHECKING:
    from redis import Redis

PIECE = 512 << 10
"""Bytes of a piece: small enough that nobody has to wait while Redis takes one."""

UNUSED = 3600
"""Seconds that pieces are kept before a version refers to them."""


def key(digest: str) -> str:
    """Return the key of the code with this SHA-256."""
    return f"broker:code:{digest}"


def put(client: Redis, digest: str, path: Path, progress: Callable[[int], None] = lambda _: None) -> None:
    """Store a zip; pieces that are there already are not sent again. `progress` is told the bytes of each piece.

    Raises StoreUnavailable.
    """
    name, pieces = key(digest), -(-path.stat().st_size // PIECE)
    with available():
        there: Any = client.hkeys(name)
        kept = client.ttl(name) == -1
    with path.open("rb") as file:
        for number in range(pieces):
            data = file.read(PIECE)
            if str(number).encode() not in there:
                pipeline = client.pipeline()
                pipeline.hset(name, mapping={str(number): data, "pieces": str(pieces)})
                if not kept:
                    pipeline.expire(name, UNUSED)
                with available():
                    pipeline.execute()
            progress(len(data))
    if not kept:
        with available():
            client.expire(name, UNUSED)


def is_complete(client: Redis, digest: str) -> bool:
    """Return whether all pieces are there."""
    pieces: Any = client.hget(key(digest), "pieces")
    return pieces is not None and client.hlen(key(digest)) == int(pieces) + 1


def get(client: Redis, digest: str, path: Path) -> None:
    """Write the zip to a file. Raises BadArchive when it is gone, or not what was stored; StoreUnavailable."""
    with available():
        pieces: Any = client.hget(key(digest), "pieces")
    if pieces is None:
        raise BadArchive(f"the code {digest[:12]} is not in Redis any more")
    whole = hashlib.sha256()
    with path.open("wb") as file:
        for number in range(int(pieces)):
            with available():
                data: Any = client.hget(key(digest), str(number))
            if data is None:
                raise BadArchive(
                    f"piece {number + 1} of {int(pieces)} of the code {digest[:12]} is not in Redis any more"
                )
            whole.update(data)
            file.write(data)
    if whole.hexdigest() != digest:
        raise BadArchive(
            f"the code {digest[:12]} in Redis is not what was stored: its hash is {whole.hexdigest()[:12]}"
        )
