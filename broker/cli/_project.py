"""Project: what a command works on; the configuration that the command line names, read when it is needed."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import click

from broker.config import Config, load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis import Redis

    from broker.function import Function


class Project:
    """The configuration of this command line, and its Redis."""

    def __init__(self) -> None:
        self._path: str | None = click.get_current_context().meta.get("broker.config")

    @cached_property
    def config(self) -> Config:
        """The configuration. Raises ConfigError with all mistakes."""
        return load(self._path)

    @cached_property
    def redis(self) -> Redis:
        """A client whose server has answered. Raises StoreError."""
        from broker.store.connection import connect  # noqa: PLC0415 -- 200 ms that commands without Redis do without

        return connect(self.config)

    @cached_property
    def functions(self) -> Mapping[str, Function]:
        """All functions, those that were deployed included. Raises StoreError."""
        from broker.deployed.functions import Functions  # noqa: PLC0415 -- as above

        return Functions(self.config, self.redis).now.by_name


pass_project = click.make_pass_decorator(Project, ensure=True)
"""Gives a command the Project as its first argument."""
