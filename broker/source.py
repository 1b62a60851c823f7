"""Source: where events come from; what a source is given, and how a kind is found.

A source is a frozen struct of its options with one method, `run`. `kind = "file"` is the Source class of
`sources/file.py`; `kind = "./my_source.py:Imap"` one in a file beside config.toml; any other name an entry point of
the group `broker.sources`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import sys
from collections.abc import Generator
from concurrent.futures import Future
from hashlib import blake2b
from pathlib import Path
from threading import Event as Flag
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import msgspec

from broker.errors import SourceError
from broker.event import Event
from broker.payload import eventbridge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from redis import Redis

T = TypeVar("T")

ENTRY_POINTS = "broker.sources"


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger's answer for one event: what is owed for it now."""

    event: str
    """The event's id."""
    invocations: tuple[str, ...] = ()
    """The ids of the invocations that are owed; empty when no trigger matched."""
    duplicate: bool = False
    """True when the ledger had every one of them already."""
    superseded: tuple[str, ...] = ()
    """The ids of earlier invocations that do not run now, since this event came within their `debounce`."""


class Publishing(msgspec.Struct, frozen=True, kw_only=True):
    """How an event is to be published; the defaults suit most sources."""

    delay: float = 0
    """Seconds before the invocation may run."""
    priority: Literal["high", "normal", "low"] = "normal"
    track: bool = False
    """Report on `context.ended()` once every invocation of this event has ended; count it in `context.open()`."""
    reply: bool = False
    """The publisher waits for the outcome: see `SourceContext.outcome`."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A tracked event whose invocations have all ended."""

    event: str
    failed: int
    """How many of them ended as dead letters."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one invocation ended, for a publisher that waited."""

    invocation: str
    ok: bool
    body: bytes
    """The result as JSON, or the error as JSON: `{"errorType", "errorMessage", "stackTrace"}`."""


class SourceContext(Protocol):
    """What a running source may use. All methods may be called from any thread."""

    name: str
    """The source's name in config.toml."""
    root: Path
    """The folder of config.toml; relative paths start here."""
    redis: Redis
    """For the source's own cursor or journal; keys start with `prefix`."""
    prefix: str
    """`broker:source:NAME:`."""
    log: logging.Logger
    stopping: Flag
    """Set when the source is to return from `run`, within a second."""

    def publish(self, events: Sequence[Event], how: Publishing = ...) -> list[Receipt]:
        """Return once everything is in Redis; blocks while Redis is away or a queue is full, until `stopping`.

        Raises StoreUnavailable or QueueFull only when `stopping` is set meanwhile: then nothing is acknowledged.
        """

    def submit(self, event: Event, how: Publishing = ...) -> Future[Receipt]:
        """Publish without blocking; the future fails at once with QueueFull or StoreUnavailable.

        Submissions that meet are published in one round trip.
        """

    def submit_then(self, event: Event, how: Publishing, then: Callable[[Receipt | Exception], object]) -> None:
        """Do the same for those who have thousands: `then` is called with the receipt or the error, in another thread.

        It is to be quick: those that were published together wait for it.
        """

    def outcome(self, invocation: str) -> Future[Outcome]:
        """Return the outcome-to-be of an invocation published with `reply`; ask before publishing it."""

    def ended(self) -> Iterator[Ended]:
        """Yield tracked events that ended; each is forgotten once the loop asks for the next one."""

    def open(self) -> int:
        """Return how many tracked events of this source have not ended yet."""

    def share(self, key: object, make: Callable[[], Any]) -> Any:
        """Return the host's one object under `key`, made by the first source that asks."""


class Publish(msgspec.Struct, frozen=True, kw_only=True):
    """The errand to publish events; its answer is their receipts, or QueueFull or StoreUnavailable is raised."""

    events: Sequence[Event]
    how: Publishing = Publishing()


class Command(msgspec.Struct, frozen=True):
    """The errand of one command to Redis; its answer is the reply, or StoreUnavailable is raised."""

    words: tuple[str | bytes | float, ...]


Errand = Publish | Command

Work = Generator[Errand, Any, T]
"""What yields an errand wherever it would wait for Redis, is sent the answer, and returns a T in the end."""


class Steps(Protocol):
    """A source at work that never waits: it yields its errands, and says when it wants to be stepped next."""

    def start(self) -> Work[float]:
        """Begin; return the seconds until the first step, `math.inf` for never: it comes when the clock is set."""

    def step(self) -> Work[float]:
        """Do what is due; return the seconds until the next step. It is repeated after StoreUnavailable, QueueFull."""


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A source's options; subclass it, add fields, write `run`."""

    def prepare(self, context: SourceContext) -> None:
        """Be told once, before any source of the host runs; nothing to publish yet."""

    def run(self, context: SourceContext) -> None:
        """Publish events until `context.stopping` is set.

        An exception is logged and the source started again, after a wait that grows.
        """
        raise NotImplementedError

    def steps(self, context: SourceContext) -> Steps:
        """Return the source as steps; one thread takes those of all sources that have this method, instead of `run`.

        For sources of which there may be thousands: the errands of those that are due at once are carried out together.
        """
        raise NotImplementedError

    def check(self, root: Path) -> list[str]:
        """Return what is wrong with the options beyond their types, one sentence each; runs before anything starts."""
        del root
        return []

    def claims(self, root: Path) -> list[str]:
        """Return what this source needs for itself alone; two sources with the same claim are a mistake."""
        del root
        return []

    def aws(self, event: dict[str, Any], attempt: int) -> Any:
        """Return what AWS would have sent instead of an event of this source, for functions with `payload = "aws"`.

        `event` is the CloudEvents record; what is returned must be JSON. By default it is what EventBridge sends.
        """
        del attempt
        return eventbridge(event)

    def feeds(self) -> list[str]:
        """Return the queue sources to which it publishes messages, besides events of its own; each must exist."""
        return []

    def plan(self, root: Path) -> list[str]:
        """Return what this source will do, one short line each, for `broker check` and the start screen."""
        del root
        return []


def find(kind: str, root: Path) -> type[Source]:
    """Return the Source class of a kind.

    Looks for a file (`./my_source.py:Imap`), then `sources/KIND.py` in `root` and in the installed package, then an
    entry point. Raises SourceError, which tells a missing kind from one that fails to import.
    """
    if ".py" in kind:
        path, _, name = kind.partition(":")
        return _pick(_load(root / path), name, kind)
    if (root / "sources" / f"{kind}.py").is_file():
        return _pick(_load(root / "sources" / f"{kind}.py"), "", kind)
    if kind.isidentifier() and importlib.util.find_spec(f"sources.{kind}"):
        return _pick(importlib.import_module(f"sources.{kind}"), "", kind)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS, name=kind):
        loaded = entry.load()
        if not (inspect.isclass(loaded) and issubclass(loaded, Source)):
            raise SourceError(f"the entry point {entry.value} is not a Source")
        return loaded
    known = sorted({*shipped(), *(entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS))})
    raise SourceError(f"unknown kind {kind!r}: expected {', '.join(known)}, or a file such as ./my_source.py:Name")


def shipped() -> list[str]:
    """Return the kinds that come with broker."""
    spec = importlib.util.find_spec("sources")
    places = list(spec.submodule_search_locations or []) if spec else []
    return [path.stem for place in places for path in Path(place).glob("[!_]*.py")]


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise SourceError(f"no such file: {path}")
    # Two files may have the same name; modules may not.
    name = f"broker_source_{path.stem}_{blake2b(bytes(path.resolve()), digest_size=4).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SourceError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # msgspec looks there for the names in a struct's annotations
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the border to a third party's code
        del sys.modules[name]
        raise SourceError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _pick(module: ModuleType, name: str, kind: str) -> type[Source]:
    if name:
        named = getattr(module, name, None)
        if not (inspect.isclass(named) and issubclass(named, Source)):
            raise SourceError(f"{kind}: there is no Source called {name!r}")
        return named
    classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Source)]
    own = [value for value in classes if value.__module__ == module.__name__]
    if len(own) != 1:
        raise SourceError(f"{kind}: expected one Source class in {module.__name__}, found {len(own)}")
    return own[0]
