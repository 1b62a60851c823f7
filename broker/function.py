"""Function: code with a handler, a runtime, limits and a retry policy."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec

from broker.quantity import Duration, Rate, Size

Priority = Literal["high", "normal", "low"]
Count = Annotated[int, msgspec.Meta(ge=1)]

LATEST = "$LATEST"
"""The version whose code is the project's own folder, as it stands there; AWS Lambda's name for the unpublished one."""


AWAITED = "deployed"
"""The handler of a function whose code is pushed; until then its invocations wait."""

UNLISTED: Mapping[str, str] = MappingProxyType({"version": LATEST, "code": ""})
"""Fields of a function that do not stand in its table, besides its name, with their values then."""


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often an invocation is tried, and how long to wait in between.

    `attempts` counts all tries, the first included. `backoff` is `exponential` (base, 2 base, 4 base ... up to max),
    `fixed` (always base), or a list of waits, of which the last repeats. `jitter` draws the wait evenly from between
    half of it and all of it, so that what failed together does not come back together.
    """

    attempts: Count = 3
    backoff: Literal["exponential", "fixed"] | list[Duration] = "exponential"
    base: Duration = Duration(1)
    max: Duration = Duration(300)
    jitter: bool = True
    by: dict[str, Count] = {}
    """How many tries instead, when the last one has ended in that way: `{ OutOfMemory = 1 }`."""

    def tries(self, verdicts: Iterable[str]) -> int:
        """Return how often an invocation is tried whose last try ended so; the first name in `by` decides."""
        return next((self.by[name] for name in verdicts if name in self.by), self.attempts)

    def delay(self, failures: int, rng: random.Random | None = None) -> float:
        """Return the seconds to wait after the `failures`-th failure (1 is the first)."""
        if isinstance(self.backoff, list):
            wait = float(self.backoff[min(failures, len(self.backoff)) - 1])
        elif self.backoff == "fixed":
            wait = float(self.base)
        else:
            wait = min(float(self.max), self.base * 2.0 ** min(failures - 1, 64))
        return wait * (rng or random).uniform(0.5, 1) if self.jitter else wait


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be used in a day or a calendar month, both of UTC."""

    requests: Count | None = None
    gb_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    per: Literal["day", "month"] = "month"
    then: Literal["warn", "stop"] = "warn"
    """What becomes of a function that has used it up: a warning, or besides it waits until the next day or month."""


class Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hand over up to `size` events at once; wait up to `window` for a batch to fill."""

    size: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10
    window: Duration = Duration(0)


class Function(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[functions.NAME]` table."""

    name: str
    version: str = LATEST
    code: str = ""
    """The hash of the code that was deployed; empty: it is the project's own."""
    handler: str
    """`handlers/thumbnail.py:handler`, `package.module:handler`, or what the runtime takes; see docs/runtimes.md."""
    runtime: Literal["python", "nodejs", "java", "provided", "exec"] = "python"
    timeout: Duration = Duration(30)
    memory: Size = Size(256 << 20)
    processes: Count = 1024
    """How many processes and threads the environment may have at once."""
    tmp: Size = Size(512 << 20)
    """How much may lie in the environment's own folder for temporary files ($TMPDIR)."""
    open_files: Annotated[int, msgspec.Meta(ge=16)] = 1024
    """How many files each of its processes may have open."""
    file_size: Size | None = None
    """How large a file it may write. None: no limit."""
    user: str | None = None
    """The user that its environments run as, when broker runs as root. None: that of `[broker]`."""
    isolation: Literal["none", "bwrap"] = "none"
    """`bwrap`: inside bubblewrap, with a file system it can only read, its own /tmp and process numbers, no network."""
    network: bool = False
    """Whether it has the network although it is inside bubblewrap."""
    writable: list[str] = []
    """The files and folders that it may write although it is inside bubblewrap."""
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 0
    """How far its processes stand back when processor time is short; 19 gets what nobody else wants."""
    variables: dict[str, str] = {}
    layers: list[str] = []
    """Names of `[layers.NAME]` tables: dependencies; where two have the same file, the later one's is used."""
    retry: Retry = Retry()
    max_age: Duration | None = None
    """An invocation older than this is not tried any more; it is a dead letter. None: no limit."""
    concurrency: Count | None = None
    """How many run at once, over all hosts. None: as many as there are environments."""
    rate: Rate | None = None
    """How often an attempt may begin, over all hosts: `10/s`. None: no limit."""
    order_by: str | None = None
    """Where an event names what it is about (`data.customer`): of each, one at a time and in order. None: no order."""
    debounce: Duration | None = None
    """Of events that come within this time of each other only the last one runs, after so much quiet. None: all run."""
    debounce_by: str | None = None
    """Where an event names what it is about, for `debounce`. None: its subject."""
    debounce_max: Duration | None = None
    """So long after the first of them the last one runs, even if there was no quiet. None: it waits for quiet."""
    unique_for: Duration | None = None
    """For so long an equal event is refused as a duplicate. None: only one with the same id is."""
    unique_by: str | None = None
    """Where an event names what makes it equal, for `unique_for`. None: its type, subject and data."""
    max_queue: Count = 1_000_000
    keep: Duration = Duration(3600)
    """How long the record of an ended invocation is kept; as long, its event's id is refused as a duplicate."""
    keep_warm: Duration = Duration(300)
    """How long an environment may be idle before it ends."""
    min: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How many environments each worker keeps warm whether there is work or not."""
    max: Count | None = None
    """How many environments a worker may start. None: as many as it has room for."""
    init_timeout: Duration = Duration(10)
    batch: Batch | None = None
    payload: Literal["cloudevent", "data", "aws"] = "cloudevent"
    """What the handler gets: the event, its data alone, or what AWS would have sent instead."""
    on_success: str | None = None
    """The function, or `queue:NAME`, that gets the result."""
    on_failure: str | None = None
    """The function, or `queue:NAME`, that gets the dead letter."""
    budget: Budget | None = None
    """What it may use in a day or a month. None: as much as it likes."""
    max_result: Size = Size(6 << 20)
    """How long its result may be, as JSON."""
    log_limit: Size = Size(1 << 20)
    """How many bytes of log one attempt may write; the rest is counted and dropped."""
    log_rate: Size | None = None
    """How many bytes of log an environment may write in a second. None: no limit but `log_limit`."""

    def queue(self, priority: Priority = "normal") -> str:
        """Return the name of the RQ queue that holds this function's invocations of that priority."""
        return self.name if priority == "normal" else f"{self.name}.{priority}"

    @property
    def key(self) -> tuple[str, str]:
        """Name and version: what may share environments."""
        return (self.name, self.version)

    @property
    def queues(self) -> tuple[str, str, str]:
        """The names of this function's RQ queues, the most urgent first."""
        return (f"{self.name}.high", self.name, f"{self.name}.low")
