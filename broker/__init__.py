"""Broker: events from files, schedules, queues and webhooks run your functions, and nothing gets lost."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.api import push
    from broker.rq_job import invoke

__all__ = ["invoke", "push"]

_HOMES = {"invoke": "broker.rq_job", "push": "broker.api"}


def __getattr__(name: str) -> object:
    """Import a function when it is first used: environments import this package, and must stay small."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
