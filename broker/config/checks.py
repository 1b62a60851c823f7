"""Checks: what types cannot say about config.toml; names that must exist, limits, files that must be there."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from broker import address, runtimes
from broker.config.cycles import cycles
from broker.config.plain import check_plain_queues
from broker.config.settings import Settings
from broker.config.table import MISSING, Reader
from broker.errors import PatternError, verdicts
from broker.flow import is_path
from broker.function import AWAITED, Budget, Function, Retry
from broker.names import inside, nearest
from broker.pattern import compile as compile_pattern
from broker.quantity import Duration, Size
from broker.source import Source
from broker.trigger import Trigger

_LEAST_TIME = Duration(0.001)
_LEAST_EVENT = Size(1 << 10)
"""What a CloudEvent without data may be long: its attributes alone."""


def check(
    reader: Reader,
    root: Path,
    *,
    settings: Settings | None,
    functions: Mapping[str, Function | None],
    sources: Mapping[str, Source | None],
    kinds: Mapping[str, str],
    triggers: Sequence[Trigger | None],
) -> None:
    """Note every mistake that shows only when tables are seen together.

    None stands for a table already found wrong, MISSING for a required field of one.
    """
    if settings is not None:
        if settings.redis is not None:
            _check_redis(reader, settings.redis)
        elif settings.replicas:
            reader.wrong("broker.replicas", "the embedded server has none: name a Redis that has")
        check_plain_queues(reader, settings.rq, functions, root)
        if settings.max_event < _LEAST_EVENT:
            shown = reader.show(str(settings.max_event), "broker.max_event")
            reader.wrong("broker.max_event", f"expected at least {_LEAST_EVENT}, got {shown}")
        _check_budget(reader, settings.budget, "broker.budget")
        _check_capacity(reader, settings, functions.values())
    queues = [name for name in sources if kinds.get(name) == "queue"]
    for function in functions.values():
        if function is not None:
            check_function(reader, function, root)
            check_destinations(reader, function, functions, queues)
    _check_cycles(reader, functions, triggers)
    _check_sources(reader, sources, queues, root)
    _check_triggers(reader, triggers, functions, sources)


def _check_redis(reader: Reader, url: str) -> None:
    found = re.match(r"[A-Za-z][\w+.-]*(?=:)", url)
    scheme = found[0] if found else ""
    if scheme not in address.FORMS:
        got = f" {scheme}://" if scheme and "broker.redis" not in reader.written else " something else"
        known = ", ".join(f"{name}://" for name in address.FORMS)
        reader.wrong("broker.redis", f"expected a URL with {known}, got{got}")
    elif not address.well_formed(url):  # no word of it is shown: it may be one of the password
        hint = "special characters of a password are percent-encoded"
        reader.wrong("broker.redis", f"expected {address.FORMS[scheme]}", hint)


def _check_capacity(reader: Reader, settings: Settings, functions: Iterable[Function | None]) -> None:
    """See that the environments to be kept warm leave room for one of any other function."""
    kept = sum(function.min for function in functions if function is not None)
    if kept >= settings.capacity:
        problem = f"the functions' min adds up to {kept}, and a worker has room for {settings.capacity} environments"
        reader.wrong("broker.environments", problem, f"write at least {kept + 1}")


def check_function(reader: Reader, function: Function, root: Path) -> None:
    """Note what is wrong with one function by itself; its handler is looked for below `root`."""
    place = inside("functions", function.name)
    runtime = runtimes.find(function.runtime)
    unknown = reader.faulty(f"{place}.runtime")
    awaited = function.handler == AWAITED
    if (
        function.handler is not MISSING
        and not awaited
        and not unknown
        and (problem := runtime.problem(function.handler, root))
    ):
        reader.wrong(f"{place}.handler", reader.redact(problem, f"{place}.handler"))
    for key in ("timeout", "init_timeout", "max_age", "debounce", "debounce_max", "unique_for"):
        limit: Duration | None = getattr(function, key)
        if limit is not None and limit < _LEAST_TIME:
            shown = reader.show(str(limit), f"{place}.{key}")
            reader.wrong(f"{place}.{key}", f"expected at least {_LEAST_TIME}, got {shown}")
    if function.memory < runtime.LEAST_MEMORY:
        shown = reader.show(str(function.memory), f"{place}.memory")
        reader.wrong(f"{place}.memory", f"expected at least {runtime.LEAST_MEMORY}, got {shown}")
    for name, value in function.variables.items():
        if not name or "=" in name or "\0" in name + value:
            reader.wrong(inside(f"{place}.variables", name), "not possible as an environment variable")
    if function.max is not None and function.min > function.max:
        reader.wrong(f"{place}.min", f"expected at most max ({function.max}), got {function.min}")
    for key in ("network", "writable"):
        if getattr(function, key) and function.isolation == "none" and not reader.faulty(f"{place}.isolation"):
            reader.wrong(f"{place}.{key}", 'says nothing without isolation = "bwrap"')
    _check_flow(reader, function, place)
    _check_budget(reader, function.budget, f"{place}.budget")
    _check_retry(reader, function.retry, place)


def _check_budget(reader: Reader, budget: Budget | None, place: str) -> None:
    if budget is not None and budget.gb_seconds == math.inf:  # JSON has no such number
        reader.wrong(f"{place}.gb_seconds", "expected a number that is reached some time, got inf")
    if budget is not None and budget.requests is None and budget.gb_seconds is None and not reader.faulty(place):
        reader.wrong(place, "expected requests, gb_seconds or both, got neither")


def _check_retry(reader: Reader, retry: Retry, place: str) -> None:
    if retry.backoff == []:
        reader.wrong(f"{place}.retry.backoff", "expected at least one wait, got an empty list")
    for name in retry.by:
        if name not in verdicts():
            where = inside(f"{place}.retry.by", name)
            reader.wrong(
                where, "no way for an attempt to fail", nearest(name, verdicts()) or f"known: {', '.join(verdicts())}"
            )
    if retry.backoff == "exponential" and retry.base > retry.max:
        base, most = (reader.show(str(getattr(retry, key)), f"{place}.retry.{key}") for key in ("base", "max"))
        reader.wrong(f"{place}.retry", f"base is longer than max: {base}, {most}")


def _check_flow(reader: Reader, function: Function, place: str) -> None:
    for key in ("order_by", "debounce_by", "unique_by"):
        _check_path(reader, function, key)
    for key, needed in (("debounce_by", "debounce"), ("debounce_max", "debounce"), ("unique_by", "unique_for")):
        if getattr(function, key) is not None and getattr(function, needed) is None:
            reader.wrong(f"{place}.{key}", f"says nothing without {needed}")
    quiet = function.debounce
    for key, why in (("debounce_max", "it would end before there was quiet"), ("max_age", "nothing would ever run")):
        most: Duration | None = getattr(function, key)
        if quiet is not None and most is not None and most <= quiet:
            shown = reader.show(str(most), f"{place}.{key}")
            reader.wrong(f"{place}.{key}", f"expected more than debounce ({quiet}), got {shown}: {why}")


def _check_path(reader: Reader, function: Function, key: str) -> None:
    path: str | None = getattr(function, key)
    if path is not None and not is_path(path):
        place = f"{inside('functions', function.name)}.{key}"
        hint = f'perhaps "data.{path}"' if place not in reader.written and is_path(f"data.{path}") else ""
        reader.wrong(
            place, f'expected a path such as "subject" or "data.customer", got {reader.show(path, place)}', hint
        )


def check_destinations(reader: Reader, function: Function, functions: Iterable[str], queues: Iterable[str]) -> None:
    """Note destinations of a function that are neither a function nor a queue source."""
    for key in ("on_success", "on_failure"):
        _check_destination(reader, function, key, functions, queues)


def _check_destination(
    reader: Reader, function: Function, key: str, functions: Iterable[str], queues: Iterable[str]
) -> None:
    target: str | None = getattr(function, key)
    place = f"{inside('functions', function.name)}.{key}"
    if target is None:
        return
    shown = reader.show(target, place)
    if target == function.name:
        reader.wrong(place, "the function would run itself for ever")
    elif target.startswith("queue:"):
        if target.removeprefix("queue:") not in queues:
            known = [f"queue:{name}" for name in queues]
            reader.wrong(place, f'{shown} is no source of kind = "queue"', nearest(target, known))
    elif target not in functions:
        known = [*functions, *(f"queue:{name}" for name in queues)]
        reader.wrong(
            place, f"there is no function {shown}", nearest(target, known) or "or queue:NAME of a queue source"
        )


def _check_cycles(reader: Reader, functions: Mapping[str, Function | None], triggers: Sequence[Trigger | None]) -> None:
    known = {name: function for name, function in functions.items() if function is not None}
    for key in ("on_success", "on_failure"):
        for circle in cycles(known, [trigger for trigger in triggers if trigger is not None], key):
            first = known[circle[0]]
            if getattr(first, key) != first.name:  # that was told already
                shown = " -> ".join([*circle, circle[0]])
                reader.wrong(f"{inside('functions', first.name)}.{key}", f"this would go round for ever: {shown}")


def _check_sources(reader: Reader, sources: Mapping[str, Source | None], queues: Collection[str], root: Path) -> None:
    claimed: dict[str, str] = {}
    for name, source in sources.items():
        if source is None:
            continue
        place = inside("sources", name)
        try:
            problems = source.check(root)
            claims = [] if problems else source.claims(root)
        except Exception as error:  # noqa: BLE001 -- the border to a third party's source
            problems, claims = [f"its check failed: {type(error).__name__}: {error}"], []
        for queue in source.feeds():
            if queue not in queues:
                reader.wrong(f"{place}.queue", f'{queue!r} is no source of kind = "queue"', nearest(queue, queues))
        for problem in problems:
            reader.wrong(place, reader.redact(problem, place))
        for claim in claims:
            if (other := claimed.setdefault(claim, place)) != place:
                reader.wrong(place, reader.redact(f"{claim} belongs to {other} already", place))


def _check_triggers(
    reader: Reader,
    triggers: Sequence[Trigger | None],
    functions: Mapping[str, Function | None],
    sources: Mapping[str, Source | None],
) -> None:
    seen: dict[str, int] = {}
    for number, trigger in enumerate(triggers, 1):
        if trigger is None:
            continue
        place = f"triggers#{number}"
        for key, name, known in (("source", trigger.source, sources), ("function", trigger.function, functions)):
            if name is not MISSING and name not in known:
                where = f"{place}.{key}"
                hint = nearest(name, known) or f"known: {', '.join(known) or 'none'}"
                reader.wrong(where, f"there is no {key} {reader.show(name, where)}", hint)
        if trigger.pattern is not None:
            try:
                compile_pattern(trigger.pattern)
            except PatternError as error:
                _wrong_pattern(reader, f"{place}.pattern", str(error))
        if MISSING in (trigger.source, trigger.function):
            continue
        first = seen.setdefault(repr((trigger.source, trigger.function, trigger.pattern)), number)
        if first != number:
            reader.wrong(place, f"says the same as triggers#{first}")


def _wrong_pattern(reader: Reader, place: str, problem: str) -> None:
    # A message may hold part of a value, which could not be recognised; what comes before the colon is the field.
    if names := reader.secret(place):
        problem = f"{problem.partition(': ')[0]}: not possible with the value of {', '.join(names)} filled in"
    reader.wrong(place, problem)
