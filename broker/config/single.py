"""Single: one table of a function, checked as if it stood in config.toml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from broker.config.checks import check_destinations, check_function
from broker.config.layers import check_names
from broker.config.loading import NAME, Config
from broker.config.table import Reader
from broker.errors import ConfigError
from broker.function import UNLISTED, Function
from broker.names import inside


def check_table(name: str, table: Mapping[str, Any], root: Path, config: Config, functions: Iterable[str]) -> None:
    """Raise ConfigError with every mistake in a function's table that does not stand in the file.

    Its handler is looked for below `root`; `functions` are those that it may have as destinations.
    """
    reader, place = Reader(file="deploy", environ={}), inside("functions", name)
    if not NAME.fullmatch(name):
        reader.wrong(place, "a name is letters, digits, - and _, a letter or digit first")
    function = reader.struct(Function, dict(table), place, given={"name": name, **UNLISTED})
    if function is not None:
        check_function(reader, function, root)
        queues = [source for source, kind in config.kinds.items() if kind == "queue"]
        check_destinations(reader, function, functions, queues)
        check_names(reader, f"{place}.layers", function.layers, config.layers)
    if reader.mistakes:
        raise ConfigError(reader.mistakes)
