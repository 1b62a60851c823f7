"""Settings: the `[broker]` table; what concerns the broker as a whole."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import msgspec

from broker.function import Budget, Count
from broker.quantity import Duration, Size


class PlainQueues(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[broker.rq]` table: queues of RQ whose jobs are run as RQ's own workers run them."""

    queues: list[str] = []
    """Their names, the most urgent first."""
    serializer: str = "pickle"
    """How jobs are written in them: `pickle` (RQ's default), `json`, or the import path of another."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[broker]` table."""

    data: str = ".broker"
    """The folder of the embedded server, layers and logs."""
    redis: str | None = None
    """URL of the Redis or Valkey to use instead of the embedded one: `redis://`, `rediss://`, `unix://`, `sentinel://`."""
    workers: Count = 1
    """How many worker processes `broker up` starts."""
    environments: Count | None = None
    """How many environments one worker may have. None: twice the processor cores, at least four."""
    max_event: Size = Size(1 << 20)
    """How long an event that comes in may be, as JSON; a longer one is refused, by HTTP with 413."""
    user: str | None = None
    """The user that functions run as, when broker runs as root. None: the owner of the project's folder."""
    memory: Size | None = None
    """How much memory the environments of one worker may occupy together. None: nearly all that the machine has."""
    grace: Duration = Duration(10)
    """How long running attempts may go on after Ctrl-C."""
    fsync: Literal["everysec", "always"] = "everysec"
    """When the embedded server writes to the disk: every second, or before each answer."""
    replicas: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    """How many replicas of Redis must have an event before it is accepted."""
    log_lines: Count = 16384
    """How many entries a log stream keeps."""
    deploy: bool = True
    """Whether functions that were deployed, to whatever host, run here too."""
    budget: Budget | None = None
    """What all functions together may use in a day or a month. None: as much as they like."""
    rq: PlainQueues = PlainQueues()

    @property
    def capacity(self) -> int:
        """How many environments one worker may have."""
        return self.environments or max(4, 2 * (os.cpu_count() or 1))
