"""Answer `GET /weather/{city}` from the database."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from handlers.database import reading


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Return the weather of a city on its last day, or with `?day=2026-11-23` on that one, as an HTTP response.

    The body is `{"city", "day", "temperature", "rain", "wind"}`; 404 for a city or day that is not known.
    """
    request = event["data"]
    city, day = request["parameters"]["city"], request["query"].get("day")
    if day is not None and not _is_day(day):
        return answer(400, {"message": "day: expected one date such as 2026-11-23"})
    found = weather(city, day)
    if found is None:
        return answer(404, {"message": f"no weather is known for {city}{f' on {day}' if day else ''}"})
    return answer(200, found)


def weather(city: str, day: str | None = None) -> dict[str, Any] | None:
    """Return the weather of a city on a day, by default its last one; None when there is none. Case does not matter."""
    with reading() as database:
        row = database.execute(
            "SELECT city, day, temperature, rain, wind FROM weather"
            " WHERE city = :city AND day = coalesce(:day, day) ORDER BY day DESC LIMIT 1",
            {"city": city, "day": day},
        ).fetchone()
    return dict(row) if row else None


def answer(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Return an HTTP response as AWS Lambda's functions do; its body is JSON."""
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": json.dumps(body, ensure_ascii=False),
    }


def _is_day(text: str | list[str]) -> bool:
    try:
        return isinstance(text, str) and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
