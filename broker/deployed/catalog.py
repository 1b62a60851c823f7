"""Catalog: the records of deployed functions in Redis; every change is one step, and is told to all who run.

`broker:functions` holds a record a function, `broker:functions:changes` counts the changes, and on the channel of that
name each is told. A change looks at what it is based on once more before it is made (WATCH), so two never mix.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from broker.deployed import code
from broker.deployed.record import Record
from broker.errors import DeployFailed
from broker.ledger import available

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger("broker")

FUNCTIONS = "broker:functions"
CHANGES = "broker:functions:changes"
"""The number of changes so far; also the channel on which each is told."""


def changes(client: Redis) -> int:
    """Return how many changes there have been. Raises StoreUnavailable."""
    with available():
        return int(client.get(CHANGES) or 0)


def read(client: Redis) -> tuple[int, dict[str, Record]]:
    """Return the number of changes, and the records as they are then, but for those that this broker cannot read.

    Raises StoreUnavailable.
    """
    with available():
        pipeline = client.pipeline()
        pipeline.get(CHANGES)
        pipeline.hgetall(FUNCTIONS)
        number, rows = pipeline.execute()
    records = {}
    for key, row in sorted(rows.items()):
        name = key.decode(errors="backslashreplace")
        try:
            records[name] = _decode(name, row)
        except DeployFailed as error:
            log.warning("%s", error)
    return int(number or 0), records


def change(client: Redis, name: str, make: Callable[[Record], Record]) -> Record:
    """Put `make(record)` in the place of a function's record (an empty one when there is none), and return it.

    Code that no version of any function refers to any more is removed in the same step; what the new versions refer to
    must be there. Raises DeployFailed when it is not, or when a record cannot be read; StoreUnavailable. What `make`
    raises changes nothing.
    """

    def step(pipe: Any) -> Record:
        rows = pipe.hgetall(FUNCTIONS)
        names = {key.decode(errors="backslashreplace"): row for key, row in rows.items()}
        records = {each: _decode(each, row) for each, row in names.items()}
        before = codes(records)
        made = records[name] = make(records.get(name, Record(name=name)))
        after = codes(records)
        for digest in sorted(after - before):
            pipe.watch(code.key(digest))
            if not code.is_complete(pipe, digest):
                raise DeployFailed("the code that was stored is gone again; deploy it once more")
        pipe.multi()
        pipe.hset(FUNCTIONS, name, msgspec.json.encode(made).decode())
        for digest in after - before:
            pipe.persist(code.key(digest))
        for digest in before - after:
            pipe.unlink(code.key(digest))
        pipe.incr(CHANGES)
        pipe.publish(CHANGES, name)
        return made

    transaction: Any = client.transaction
    with available():
        made: Record = transaction(step, FUNCTIONS, value_from_callable=True)
    return made


def codes(records: dict[str, Record]) -> set[str]:
    """Return the hashes of all code that some version refers to."""
    return {version.code for record in records.values() for version in record.versions.values()}


def _decode(name: str, row: bytes) -> Record:
    try:
        return msgspec.json.decode(row, type=Record, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DeployFailed(
            f"what Redis holds of the deployed function {name!r} cannot be read by this broker: {error}"
        ) from error
