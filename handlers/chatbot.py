"""Answer what is said to a chat bot; the HTTP source has verified who sent it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from handlers.weather import answer, weather

HELP = "I understand: `help`, `weather CITY`, `time`."


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Return an HTTP response with `{"text"}`, which Slack and its like show; 400 when nothing was said."""
    said = _said(event["data"].get("body"))
    if said is None:
        return answer(400, {"message": 'expected {"text": "help"}'})
    command, _, rest = said.strip().partition(" ")
    return answer(200, {"text": _reply(command.lower(), rest.strip())})


def _reply(command: str, rest: str) -> str:
    if command == "time":
        return f"It is {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    if command == "weather" and rest:
        found = weather(rest)
        # The city as it stands in the database: what somebody typed is not repeated into a chat.
        return "{city}, {day}: {temperature:g} °C".format(**found) if found else "I know no weather of that city."
    return HELP


def _said(body: Any) -> str | None:
    """Return the text of `{"text"}`, also in the `data` of Standard Webhooks, or of the form that Slack sends."""
    if isinstance(body, str):
        return parse_qs(body).get("text", [None])[0]
    if isinstance(body, dict) and isinstance(body.get("data"), dict):
        body = body["data"]
    text = body.get("text") if isinstance(body, dict) else None
    return text if isinstance(text, str) else None
