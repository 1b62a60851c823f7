"""Config: read config.toml into one frozen value, or say everything that is wrong with it."""

from __future__ import annotations

import os
import re
import tomllib
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from broker.config.checks import check
from broker.config.layers import check as check_layers
from broker.config.schema import schema
from broker.config.settings import Settings
from broker.config.table import Reader
from broker.errors import ConfigError, Mistake
from broker.function import UNLISTED, Function
from broker.layer import Layer
from broker.names import inside, nearest
from broker.source import Source, find
from broker.trigger import Trigger

__all__ = ["Config", "Settings", "load", "schema"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # no dot: it parts a queue's name from its priority
_TABLES = ("broker", "functions", "layers", "sources", "triggers")
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, kw_only=True, repr=False)
class Config:
    """All of config.toml, checked. It holds secrets, so it has no telling representation."""

    path: Path
    """The file, absolute."""
    root: Path
    """Its folder, where relative paths start."""
    settings: Settings
    functions: dict[str, Function]
    sources: dict[str, Source]
    kinds: dict[str, str]
    """Name of a source -> its `kind`."""
    triggers: tuple[Trigger, ...]
    layers: dict[str, Layer] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The folder for the broker's own data, absolute."""
        return self.root / self.settings.data


def load(path: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Return the configuration in `path`; without one in $BROKER_CONFIG, else in ./config.toml.

    `environ` (default: the process's) gives `${VAR}` its values, before a `.env` beside the file does.
    Raises ConfigError with every mistake in the file.
    """
    environ = os.environ if environ is None else environ
    given = Path(path or environ.get("BROKER_CONFIG") or "config.toml")
    document = _parse(given)
    root = given.parent.resolve()
    reader = Reader(file=str(given), environ=ChainMap({}, dict(environ), _dotenv(root)))
    config = _read(reader, reader.substitute(document), root / given.name)
    if reader.mistakes:
        raise ConfigError(reader.mistakes)
    return config


def _parse(path: Path) -> dict[str, Any]:
    def failure(problem: str, place: str = "", hint: str = "") -> ConfigError:
        return ConfigError([Mistake(file=str(path), place=place, problem=problem, hint=hint)])

    try:
        # A byte order mark is what Windows editors leave; tomllib would call it an invalid statement.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise failure("there is no such file", hint="make one with `broker init`, or name another") from None
    except OSError as error:
        raise failure(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise failure(f"is not UTF-8 text: byte {error.start + 1} is not") from error
    except RecursionError as error:
        raise failure("is nested too deeply") from error
    except tomllib.TOMLDecodeError as error:
        where = _POSITION.search(str(error))
        place = f"line {where[1]}, column {where[2]}" if where and where[1] else "end of file"
        raise failure(f"not TOML: {_POSITION.sub('', str(error))}", place) from error


def _dotenv(root: Path) -> dict[str, str]:
    path = root / ".env"
    try:
        # As they stand: a password may hold a `${`.
        values = dotenv_values(path, interpolate=False) if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Mistake(file=str(path), place="", problem=f"cannot be read: {error}")]) from error
    return {name: value for name, value in values.items() if value is not None}


def _read(reader: Reader, document: dict[str, Any], path: Path) -> Config:
    for key in document:
        if key not in _TABLES:
            reader.wrong(inside("", key), "unknown table", nearest(key, _TABLES) or f"known: {', '.join(_TABLES)}")
    settings = reader.struct(Settings, document.get("broker", {}), "broker")
    functions = {
        name: reader.struct(Function, table, place, given={"name": name, **UNLISTED}, partial=True)
        for name, table, place in _named(reader, document, "functions")
    }
    layers = {
        name: reader.struct(Layer, table, place, given={"name": name})
        for name, table, place in _named(reader, document, "layers")
    }
    tables = _named(reader, document, "sources")
    find_once = cache(partial(find, root=path.parent))  # to look for a kind takes longer than to read a table
    sources = {name: _source(reader, table, place, find_once) for name, table, place in tables}
    # Also of a source that is wrong otherwise: a destination may still name it.
    kinds = {name: str(table.get("kind")) for name, table, _ in tables if isinstance(table, dict)}
    triggers = [reader.struct(Trigger, table, place, partial=True) for table, place in _triggers(reader, document)]
    check(reader, path.parent, settings=settings, functions=functions, sources=sources, triggers=triggers, kinds=kinds)
    check_layers(reader, path.parent, layers, functions)
    return Config(
        path=path,
        root=path.parent,
        settings=settings or Settings(),
        functions={name: function for name, function in functions.items() if function is not None},
        sources={name: source for name, source in sources.items() if source is not None},
        kinds=kinds,
        triggers=tuple(trigger for trigger in triggers if trigger is not None),
        layers={name: layer for name, layer in layers.items() if layer is not None},
    )


def _named(reader: Reader, document: dict[str, Any], key: str) -> list[tuple[str, Any, str]]:
    """Return name, table and place of each `[key.NAME]`."""
    tables = document.get(key, {})
    if not isinstance(tables, dict):
        reader.wrong(key, f"expected tables called [{key}.NAME], got {reader.show(tables, key)}")
        return []
    for name in tables:
        if not NAME.fullmatch(name):
            reader.wrong(inside(key, name), "a name is letters, digits, - and _, a letter or digit first")
    return [(name, table, inside(key, name)) for name, table in tables.items()]


def _triggers(reader: Reader, document: dict[str, Any]) -> list[tuple[Any, str]]:
    """Return table and place of each `[[triggers]]`; the first is `triggers#1`."""
    tables = document.get("triggers", [])
    if not isinstance(tables, list):
        reader.wrong("triggers", f"expected [[triggers]] tables, got {reader.show(tables, 'triggers')}")
        return []
    return [(table, f"triggers#{number}") for number, table in enumerate(tables, 1)]


def _source(reader: Reader, table: Any, place: str, find_kind: Callable[[str], type[Source]]) -> Source | None:
    if not isinstance(table, dict):
        reader.wrong(place, f"expected a table, got {reader.show(table, place)}")
        return None
    kind = table.get("kind")
    if inside(place, "kind") in reader.unfilled:
        return None
    if not isinstance(kind, str):
        got = f", got {reader.show(kind, inside(place, 'kind'))}" if "kind" in table else ""
        reader.wrong(inside(place, "kind"), f'expected the kind of source, such as "file"{got}')
        return None
    try:
        made = find_kind(kind)
    except Exception as error:  # noqa: BLE001 -- the border to a third party's module
        reader.wrong(inside(place, "kind"), reader.redact(str(error), place))
        return None
    return reader.struct(made, {key: value for key, value in table.items() if key != "kind"}, place)
