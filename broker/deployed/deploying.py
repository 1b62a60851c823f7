"""Deploying: store packed code and make it a version, so that a deploy that dies halfway has changed nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from broker.deployed import catalog, code
from broker.deployed.record import Record, Version
from broker.errors import DeployFailed

if TYPE_CHECKING:
    from redis import Redis

    from broker.deployed.packing import Packed

TRIES = 3
"""How often it is begun, should another's change remove the code between its being stored and its being used."""


def deploy(
    client: Redis,
    name: str,
    packed: Packed,
    options: dict[str, Any],
    *,
    triggers: list[dict[str, Any]] | None = None,
    share: float = 1,
    origin: str = "",
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Record, int]:
    """Make packed code the next version of a function; return the function's record, and the version's number.

    What is live already, and is the same in all, is no new version. `triggers` of None leaves them as they are.
    Raises DeployFailed, StoreUnavailable.
    """
    size, number = packed.zip.stat().st_size, 0

    def make(record: Record) -> Record:
        nonlocal number
        live = record.versions.get(record.live.version)
        is_same = live is not None and (live.code, live.options) == (packed.digest, options)
        if live is not None and is_same and not record.live.weights and triggers in (None, record.triggers):
            number = live.number
            return record
        number = record.last + 1
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        version = Version(number=number, code=packed.digest, size=size, options=options, created=now, origin=origin)
        return record.with_version(version, share, triggers)

    for left in reversed(range(TRIES)):
        code.put(client, packed.digest, packed.zip, progress)
        try:
            return catalog.change(client, name, make), number
        except DeployFailed:
            if not left:
                raise
    raise AssertionError
