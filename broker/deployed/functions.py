"""Functions: those of config.toml and those that were deployed, as one; whoever runs or owes something asks here."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from broker.config.table import quantity
from broker.deployed import catalog
from broker.deployed.record import Record, Version
from broker.errors import PatternError
from broker.function import LATEST, Function
from broker.routing import Routes
from broker.trigger import Trigger

if TYPE_CHECKING:
    from redis import Redis

    from broker.config import Config

log = logging.getLogger("broker")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The functions at one moment."""

    by_name: dict[str, Function]
    """Each function as most invocations run it."""
    routes: Routes
    records: Mapping[str, Record] = field(default_factory=dict)
    versions: Mapping[tuple[str, int], Function] = field(default_factory=dict)
    """Name and number -> that version of a deployed function."""
    split: frozenset[str] = frozenset()
    """Names of those of which several versions are live."""


class Functions:
    """The functions of a configuration, and those deployed to its Redis; `now` is replaced as a whole."""

    def __init__(self, config: Config, client: Redis | None = None) -> None:
        """Read what was deployed; without a client, `refresh` does so later. Raises StoreUnavailable."""
        self._config = config
        self.changes = 0
        """How many changes it knows of."""
        self._looked = 0.0
        self.now = Snapshot(by_name=dict(config.functions), routes=Routes(config.triggers))
        if client is not None:
            self.refresh(client)

    def refresh(self, client: Redis) -> bool:
        """Take note of what was deployed; return whether anything has changed. Raises StoreUnavailable."""
        self._looked = time.monotonic()
        if not self._config.settings.deploy:
            return False
        if catalog.changes(client) == self.changes:
            return False
        self.changes, records = catalog.read(client)
        self.now = _together(self._config, records)
        return True

    def look(self, client: Redis, every: float = 1.0) -> None:
        """Refresh, unless it was done a moment ago."""
        if time.monotonic() - self._looked >= every:
            self.refresh(client)

    def pick(self, function: Function, invocation: str, qualifier: str = "") -> Function:
        """Return the version of a function that an invocation runs.

        A qualifier is an alias or a version's number; one that is gone by now gives what is live.
        """
        now = self.now
        if not qualifier and not self.is_split(function):
            return function
        record = now.records.get(function.name)
        number = record.resolve(qualifier, invocation) if record else None
        if number is None:
            return function
        return self._numbered(function.name, number) or function

    def is_split(self, function: Function) -> bool:
        """Return whether several versions of a function share its invocations."""
        return function.name in self.now.split

    def versions(self, function: Function) -> list[Function]:
        """Return all versions of a function that invocations without a qualifier may run."""
        now = self.now
        if not self.is_split(function):
            return [function]
        numbers = now.records[function.name].live.versions()
        return [version for number in numbers if (version := self._numbered(function.name, number))]

    def _numbered(self, name: str, number: int) -> Function | None:
        return self._config.functions.get(name) if number == 0 else self.now.versions.get((name, number))

    def live(self) -> set[tuple[str, str]]:
        """Return name and version of all that invocations without a qualifier may run."""
        now = self.now
        keys = {function.key for function in now.by_name.values()}
        for name in now.split:
            keys |= {(name, label(number)) for number in now.records[name].live.versions()}
        return keys


def label(number: int) -> str:
    """Return a version's number as AWS Lambda writes it."""
    return str(number) if number else LATEST


def make(config: Config, name: str, version: Version) -> Function:
    """Return a version as a function: with its own code, and what config.toml says of it, if it is there.

    Raises ValueError with what is wrong with its options.
    """
    given = {"name": name, "version": str(version.number), "code": version.code}
    configured = config.functions.get(name)
    if configured is None:
        options = {**version.options, **given}
    else:
        table = {key: getattr(configured, key) for key in configured.__struct_fields__}
        code: dict[str, Any] = {
            key: version.options[key] for key in ("handler", "runtime", "layers") if key in version.options
        }
        options = {**table, **code, **given}
    try:
        return msgspec.convert(options, Function, dec_hook=quantity, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def _together(config: Config, records: Mapping[str, Record]) -> Snapshot:
    by_name, triggers = dict(config.functions), list(config.triggers)
    versions: dict[tuple[str, int], Function] = {}
    split = set()
    for name, record in records.items():
        for number, version in record.versions.items():
            try:
                versions[name, number] = make(config, name, version)
            except ValueError as error:  # a newer broker has deployed it, and knows more
                log.warning("%s: version %d cannot be run by this broker: %s", name, number, error)
        if not record.versions:
            continue
        live = record.live
        main = by_name.get(name) if live.version == 0 else versions.get((name, live.version))
        if main is None:
            continue
        by_name[name] = main
        if len(live.versions()) > 1:
            split.add(name)
        triggers += _triggers(name, record)
    return Snapshot(
        by_name=by_name,
        routes=_routes(config, triggers),
        records={name: record for name, record in records.items() if record.versions},
        versions=versions,
        split=frozenset(split),
    )


def _triggers(name: str, record: Record) -> list[Trigger]:
    try:
        return [msgspec.convert({**trigger, "function": name}, Trigger) for trigger in record.triggers]
    except msgspec.ValidationError as error:  # as above
        log.warning("%s: its triggers cannot be used by this broker: %s", name, error)
        return []


def _routes(config: Config, triggers: list[Trigger]) -> Routes:
    try:
        return Routes(triggers)
    except PatternError as error:
        log.warning("a trigger that was deployed cannot be used by this broker: %s", error)
        return Routes(config.triggers)
