"""Ticks as EventBridge's scheduled events, for `payload = "aws"`; pure.

Format: https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-run-lambda-schedule.html
"""

from __future__ import annotations

from typing import Any

from broker.payload import CloudEvent, arn, eventbridge

TYPE = "schedule.tick"


def scheduled(event: CloudEvent) -> dict[str, Any]:
    """Return the scheduled event of a tick: its time is when the tick was due, its rule has the source's name."""
    return {
        **eventbridge(event),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "resources": [arn("events", f"rule/{event['source']}")],
        "detail": {},
    }
