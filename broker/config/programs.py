"""Programs: which languages the functions of a configuration need and this machine lacks.

Not part of reading config.toml: the same file serves machines that run no functions.
"""

from __future__ import annotations

import os

from broker import runtimes
from broker.config.loading import Config
from broker.errors import ConfigError, Mistake
from broker.function import AWAITED
from broker.names import inside


def require_programs(config: Config) -> None:
    """Raise ConfigError when a function's program is not found, with a mistake for each such function."""
    mistakes = []
    for function in config.functions.values():
        if function.handler == AWAITED or function.layers:  # a layer may bring it, in its bin/
            continue
        path = function.variables.get("PATH") or os.environ.get("PATH", "")
        problem, _, hint = runtimes.find(function.runtime).missing(function.handler, config.root, path).partition("; ")
        if problem:
            place = f"{inside('functions', function.name)}.runtime"
            mistakes.append(Mistake(file=str(config.path), place=place, problem=problem, hint=hint))
    if mistakes:
        raise ConfigError(mistakes)
