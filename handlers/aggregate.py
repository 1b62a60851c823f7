"""Sum up measurements from a queue, a batch at a time: count, sum, least and greatest value of each key."""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from handlers.database import writing

log = logging.getLogger(__name__)

REMEMBERED = timedelta(days=7)
"""How long events are known to have been counted; none comes again after so long."""

_COUNT = """
INSERT INTO measurements (key, count, sum, min, max) VALUES (:key, 1, :value, :value, :value)
ON CONFLICT (key) DO UPDATE SET
    count = count + 1, sum = sum + excluded.sum, min = min(min, excluded.min), max = max(max, excluded.max)
"""


def handler(event: list[dict[str, Any]], context: Any) -> dict[str, Any]:
    """Count the batch's messages `{"key", "value"}`, each once, also when it is delivered again.

    Returns `{"counted", "batchItemFailures": [{"itemIdentifier"}]}`, the ids of bad messages: these alone are tried
    again, and become dead letters.
    """
    failures = []
    counted = 0
    today = datetime.now(UTC).date()
    with writing() as database:
        for one in event:
            try:
                measurement = _measurement(one.get("data"))
            except ValueError as error:
                log.warning("%s: %s", one["id"], error)
                failures.append({"itemIdentifier": one["id"]})
                continue
            # In the same transaction: an event is both counted and known to be, or neither.
            new = database.execute(
                "INSERT OR IGNORE INTO counted (event, day) VALUES (?, ?)",
                (f"{one['source']} {one['id']}", today.isoformat()),
            )
            if new.rowcount:
                database.execute(_COUNT, measurement)
                counted += 1
        database.execute("DELETE FROM counted WHERE day < ?", ((today - REMEMBERED).isoformat(),))
    print(f"{counted} counted, {len(event) - counted - len(failures)} known, {len(failures)} bad")
    return {"counted": counted, "batchItemFailures": failures}


def _measurement(data: Any) -> dict[str, str | float]:
    key, value = (data.get("key"), data.get("value")) if isinstance(data, dict) else (None, None)
    if not isinstance(key, str) or not key:
        raise ValueError('expected {"key": "a name", "value": 1.5}')
    key.encode()  # a half of a surrogate pair, which JSON can write, is refused here and not by SQLite later on
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"value: expected a number, got {str(value)[:50]!r}")
    return {"key": key, "value": number}
