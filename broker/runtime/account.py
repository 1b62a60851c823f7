"""Account: the user that functions run as when broker runs as root.

It is the one that the configuration names, else the owner of the project's folder, so that functions may write there
and nowhere else. Without either it is root itself.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker.errors import ConfigError, Mistake
from broker.names import inside, nearest

if TYPE_CHECKING:
    from broker.config import Config
    from broker.function import Function

_PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    def may_read(self, path: Path) -> bool:
        """Return whether it may read a file, as far as the rights of the folders above and of itself say."""
        return all(self._has(4 if place == path else 1, place) for place in (*path.parents, path))

    def _has(self, right: int, place: Path) -> bool:
        try:
            state = place.stat()
        except OSError:
            return False
        if state.st_uid == self.uid:
            return bool(state.st_mode >> 6 & right)
        return bool(state.st_mode >> 3 & right) if state.st_gid in self.groups else bool(state.st_mode & right)


def named(name: str) -> Account | None:
    """Return the user of that name, or None when there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid, groups=groups, home=entry.pw_dir)


def owner(folder: Path) -> Account:
    """Return the user whose folder it is; in a container it may have no name."""
    state = folder.stat()
    try:
        found = named(pwd.getpwuid(state.st_uid).pw_name)
    except KeyError:
        found = None
    return found or Account(
        name=str(state.st_uid), uid=state.st_uid, gid=state.st_gid, groups=(state.st_gid,), home=str(folder)
    )


def account_of(config: Config, function: Function | None = None) -> Account | None:
    """Return the user that the environments of a function (of any) change to; None: they stay what the worker is.

    Raises ConfigError when there is no such user, or this process may not become it.
    """
    place, name = _named(config, function)
    if name is None:
        return _default(config)
    account = named(name)
    if account is None:
        known = [entry.pw_name for entry in pwd.getpwall()]
        raise _mistake(config, place, f'there is no user "{name}" on this machine', nearest(name, known))
    if account.uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise _mistake(config, place, f'only root can run functions as "{name}"', "start the worker as root")
    return account


def complaints(config: Config) -> Iterator[str]:
    """Yield what is wrong, or worth knowing, about the users that functions run as here."""
    told = set()
    for function in config.functions.values():
        place, _ = _named(config, function)
        try:
            account = account_of(config, function)
        except ConfigError as error:
            told.add("; ".join(f"{mistake.place}: {mistake.problem}" for mistake in error.mistakes))
            continue
        if account is None:
            if os.geteuid() == 0:
                told.add(_why_root(config))
        elif missing := _unreadable(account):
            told.add(f"{place}: {account.name} may not read {missing}, which its functions need")
    yield from sorted(told)


def _named(config: Config, function: Function | None) -> tuple[str, str | None]:
    if function is not None and function.user is not None:
        return f"{inside('functions', function.name)}.user", function.user
    return "broker.user", config.settings.user


def _default(config: Config) -> Account | None:
    if os.geteuid() != 0:
        return None
    account = owner(config.root)
    return account if account.uid != 0 and not _unreadable(account) else None


def _why_root(config: Config) -> str:
    account = owner(config.root)
    if account.uid == 0:
        return "functions run as root; name another user in [broker] user, or give the project's folder to one"
    return f"functions run as root: {account.name}, whose folder this is, may not read {_unreadable(account)}"


def _unreadable(account: Account) -> Path | None:
    """Return what of Python and broker the user cannot read."""
    needed = (Path(os.__file__), Path(sys.executable).resolve(), _PACKAGE / "broker" / "__init__.py")
    return next((path for path in needed if not account.may_read(path)), None)


def _mistake(config: Config, place: str, problem: str, hint: str) -> ConfigError:
    return ConfigError([Mistake(file=str(config.path), place=place, problem=problem, hint=hint)])
