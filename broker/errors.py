"""The tree of errors; everything broker raises on purpose is one of these.

    BrokerError
    ├── ConfigError          config.toml is wrong; carries every mistake at once
    ├── StoreError           Redis cannot be used
    │   ├── StoreMissing     no server there, and none can be started
    │   ├── StoreRefused     it refuses our password, user or database: the configuration is wrong
    │   └── StoreUnavailable it was there and is not now: down, loading, failing over, full
    ├── EventError           not a CloudEvent, or one that breaks a limit
    │   └── EventTooLarge    an event is longer than max_event
    ├── SignatureError       a webhook's signature is missing, too old or wrong
    ├── PatternError         an event pattern that EventBridge would refuse
    ├── QueueFull            a function's queue has reached max_queue; try again later
    ├── UnknownFunction      no such function in the configuration
    ├── UnknownQueue         no such queue source in the configuration
    ├── UnknownInvocation    no such invocation in the ledger
    ├── BadArchive           a zip is damaged, or holds paths that lead out of its folder
    ├── DeployFailed         a function cannot be deployed as it is
    ├── LayerFailed          a layer cannot be built; carries what the installer said
    ├── SourceError          a source cannot go on; it is restarted with backoff
    └── FunctionError        an attempt failed
        ├── HandlerMissing   the file, module or name of the handler is not there
        ├── InitFailed       importing the handler failed
        ├── HandlerFailed    the handler raised
        ├── TimedOut         the attempt ran longer than the function's timeout
        ├── OutOfMemory      the environment outgrew the function's memory
        ├── TooManyProcesses the environment had more processes and threads than the function's limit
        ├── TmpFull          the environment's /tmp outgrew the function's limit
        ├── EnvironmentDied  the environment was lost: it broke its connection, or its nursery died
        │   ├── Exited       the process exited by itself
        │   └── Killed       a signal ended it that broker did not send
        ├── WorkerLost       the worker of the attempt died (three times: a poison pill)
        ├── Foreign          what lies in the function's queue is no invocation of it
        ├── PayloadFailed    its source cannot say what AWS would have sent
        ├── Expired          it was not run within the function's max_age
        └── Stopped          somebody stopped it

It imports nothing of ours.
"""

from __future__ import annotations

from dataclasses import dataclass


class BrokerError(Exception):
    """Broker could not do what it was asked to.

    Raised without arguments, the first line of the class docstring is the message.
    """

    def __str__(self) -> str:
        """Return the message, or the first docstring line of the class when none was given."""
        return super().__str__() or (self.__doc__ or "").strip().splitlines()[0]


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One mistake in a configuration: where it stands, what is wrong, what would be right."""

    file: str
    place: str
    """The table and key, as one would write them: `functions.thumbnail.timeout`."""
    problem: str
    """Expected and got, in one sentence."""
    hint: str = ""
    """What to do; often the nearest known name."""

    def __str__(self) -> str:
        """Return one readable line."""
        where = f"{self.file}: {self.place}: " if self.place else f"{self.file}: "
        return f"{where}{self.problem}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(BrokerError):
    """The configuration has mistakes."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        """Take every mistake found; `str()` lists them all, one a line."""
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


class StoreError(BrokerError):
    """Redis cannot be used."""


class StoreMissing(StoreError):
    """There is no Redis there, and none can be started."""


class StoreRefused(StoreError):
    """Redis refuses us."""


class StoreUnavailable(StoreError):
    """Redis does not answer, is loading, is failing over or is full."""


class EventError(BrokerError):
    """This is not a CloudEvent, or one that breaks a limit."""


class EventTooLarge(EventError):
    """The event is longer than the broker takes."""


class SignatureError(BrokerError):
    """The request is not signed, or not by one who knows the secret."""


class PatternError(BrokerError):
    """This is not an event pattern."""


class QueueFull(BrokerError):
    """The function's queue is full."""

    def __init__(self, queue: str, limit: int) -> None:
        """Take the queue's name and its `max_queue`."""
        super().__init__(f"queue {queue!r} is full ({limit} invocations wait); try again later")
        self.queue = queue
        self.limit = limit


class UnknownFunction(BrokerError):
    """There is no such function."""


class UnknownQueue(BrokerError):
    """There is no such queue."""


class UnknownInvocation(BrokerError):
    """There is no such invocation."""


class BadArchive(BrokerError):
    """The zip is damaged, or holds paths that lead out of its folder."""


class DeployFailed(BrokerError):
    """The function cannot be deployed."""


class LayerFailed(BrokerError):
    """The layer cannot be built."""


class SourceError(BrokerError):
    """The source cannot go on."""


class FunctionError(BrokerError):
    """The attempt failed."""


class HandlerMissing(FunctionError):
    """The handler's file, module or name is not there."""


class InitFailed(FunctionError):
    """The handler could not be imported."""


class HandlerFailed(FunctionError):
    """The handler raised."""


class TimedOut(FunctionError):
    """The attempt ran longer than the function's timeout."""


class OutOfMemory(FunctionError):
    """The environment outgrew the function's memory."""


class TooManyProcesses(FunctionError):
    """The environment had too many processes."""


class TmpFull(FunctionError):
    """The environment's /tmp outgrew its limit."""


class EnvironmentDied(FunctionError):
    """The environment was lost."""


class Exited(EnvironmentDied):
    """The environment's process exited."""


class Killed(EnvironmentDied):
    """The environment's process was killed by a signal."""


class WorkerLost(FunctionError):
    """The worker died while it ran this invocation."""


class Foreign(FunctionError):
    """What lies in the function's queue is no invocation of it."""


class PayloadFailed(FunctionError):
    """The event's source cannot say what AWS would have sent."""


class Expired(FunctionError):
    """The invocation was not run within the function's max_age."""


class Stopped(FunctionError):
    """The invocation was stopped on request."""


def verdicts() -> list[str]:
    """Return the ways in which an attempt can fail so that it may be tried again: what `retry.by` can tell apart."""
    found: list[type[FunctionError]] = [*FunctionError.__subclasses__()]
    for kind in found:
        found += kind.__subclasses__()
    return sorted({kind.__name__ for kind in found} - _FINAL)


_FINAL = {"WorkerLost", "Foreign", "Expired", "Stopped"}
