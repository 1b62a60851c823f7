"""Isolation: what keeps the environments of one configuration apart from the machine: limits, users, bubblewrap.

The worker works it out here; confinement.py and bubble.py carry it out inside the environment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.function import Function
from broker.runtime import account as accounts
from broker.runtime.account import Account

if TYPE_CHECKING:
    from broker.config import Config

PROGRAM = "bwrap"


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """The rules for all environments of a worker."""

    accounts: Mapping[str, Account | None] = field(default_factory=dict)
    """Function -> the user that its environments change to; None: they do not."""
    default: Account | None = None
    """That of functions which are not among them."""
    hidden: tuple[Path, ...] = ()
    """What bubblewrap keeps out of sight: configuration, secrets, the broker's own data."""
    root: Path = Path("/")
    """Where relative paths start."""

    @classmethod
    def of(cls, config: Config) -> Isolation:
        """Return the rules of a configuration; open the way to its layers for other users.

        Raises ConfigError when a user cannot be had.
        """
        by_function = {name: accounts.account_of(config, function) for name, function in config.functions.items()}
        default = accounts.account_of(config)
        if default or any(by_function.values()):
            with contextlib.suppress(FileNotFoundError):  # what lies in it has rights of its own
                config.data.chmod(config.data.stat().st_mode | 0o011)
        return cls(
            accounts=by_function,
            default=default,
            hidden=(config.path, config.root / ".env", config.data),
            root=config.root,
        )

    def hidden_files(self) -> list[Path]:
        """Return the hidden files: one that is replaced, as most editors save, is covered in new bubbles alone."""
        return [path for path in self.hidden if not path.is_dir()]

    def variables(self, function: Function, tmp: Path) -> dict[str, str]:
        """Return the variables that tell about the surroundings; the function may set others."""
        told = {"TMPDIR": "/tmp" if function.isolation == "bwrap" else str(tmp)}  # noqa: S108 -- its own
        if account := self.accounts.get(function.name, self.default):
            told |= {"HOME": account.home, "USER": account.name, "LOGNAME": account.name}
        return told

    def bounds(self, function: Function, tmp: Path) -> dict[str, Any]:
        """Return what the processes of an environment are held to; sizes are in bytes."""
        account = self.accounts.get(function.name, self.default)
        return {
            "tmp": str(tmp),
            "memory": int(function.memory),
            "processes": function.processes,
            "open_files": function.open_files,
            "file_size": None if function.file_size is None else int(function.file_size),
            "nice": function.nice,
            "user": account and [account.uid, account.gid, list(account.groups)],
            "bubble": self._bubble(function) if function.isolation == "bwrap" else None,
        }

    def _bubble(self, function: Function) -> dict[str, Any]:
        return {
            "program": shutil.which(PROGRAM) or PROGRAM,
            "network": function.network,
            "tmp": int(function.tmp),
            "writable": [str(self.root / path) for path in function.writable],
            "hidden": [os.path.realpath(path) for path in self.hidden],  # bubblewrap covers no links
        }


NONE = Isolation()


def complaints(config: Config) -> Iterator[str]:
    """Yield what this machine lacks for the isolation that the configuration asks for."""
    yield from accounts.complaints(config)
    wrapped = [function.name for function in config.functions.values() if function.isolation == "bwrap"]
    if wrapped and (problem := _bubblewrap()):
        yield f'isolation = "bwrap" of {", ".join(wrapped)}: {problem}'


def _bubblewrap() -> str:
    """Return why bubblewrap cannot be used here, or nothing."""
    if shutil.which(PROGRAM) is None:
        return "bubblewrap is not installed (the package bubblewrap, the program bwrap)"
    test = [PROGRAM, "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "true"]
    done = subprocess.run(test, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False)
    return f"bubblewrap does not work here: {done.stderr.strip()}" if done.returncode else ""
