"""Address: where the embedded server of a data folder listens, and how to show an address of any server.

The socket is in the data folder, or in a short private folder when its path would be too long, or
has what Redis' clients cannot read: CLIENT INFO is words of `key=value`, and one of them is the path.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote, urlsplit

from broker.errors import StoreMissing

NAME = "redis.sock"
"""In the data folder: the socket itself, or a symbolic link to it."""

LONGEST = 100
"""Bytes of a path; the kernel takes 107 on Linux and 103 on macOS (unix(7): sun_path)."""

FORMS = {
    "redis": "redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]",
    "rediss": "rediss://[[USER]:PASSWORD@]HOST[:PORT][/DB]",
    "unix": "unix://[[USER]:PASSWORD@]/PATH/TO/SOCKET[?db=DB]",
    "sentinel": "sentinel://[[USER]:PASSWORD@]HOST[:PORT],HOST[:PORT].../SERVICE[/DB]",
}
"""Scheme of a URL -> how it is written."""

_PRIVATE_FOLDER = 0o040700
"""A directory, and nobody but its owner may enter."""


def find(data: Path) -> Path:
    """Return the socket on which the server of a data folder listens, if it runs."""
    path = data.absolute() / NAME
    return path.readlink() if path.is_symlink() else path


def url(path: Path) -> str:
    """Return the URL that any Redis client takes to connect to a socket."""
    return "unix://" + quote(str(path))


def public(text: str) -> str:
    """Return a URL without user, password and options, fit to be shown."""
    return re.sub(r"//.*@", "//", text, flags=re.DOTALL).partition("?")[0]


def well_formed(text: str) -> bool:
    """Whether a URL of a scheme that is known is written as FORMS says; redis-py takes a wrong DB for 0."""
    try:
        parts = urlsplit(text)
        _, _, host = parts.netloc.rpartition("@")
        database = parts.path.strip("/")
        if parts.scheme == "unix":
            return not host and bool(database)
        if parts.scheme == "sentinel":
            service, _, database = database.partition("/")
            hosts = [urlsplit(f"//{each}") for each in host.split(",")] if service else []
            right = bool(hosts) and all(each.hostname and each.port != 0 for each in hosts)
        else:
            right = urlsplit(f"//{host}").port != 0
    except ValueError:  # of a port, or of brackets
        return False
    return right and (not database or database.isdecimal())


def choose(data: Path) -> Path:
    """Return where the server of a data folder is to listen; make a folder for that when need be.

    Raises StoreMissing when somebody else has made that folder, OSError when it cannot be made.
    """
    path = data.absolute() / NAME
    return path if len(os.fsencode(path)) <= LONGEST and _is_one_word(str(path)) else _short_folder(data) / NAME


def _short_folder(data: Path) -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    fits = 0 < len(os.fsencode(runtime)) < LONGEST // 2 and _is_one_word(runtime)
    base = Path(runtime if fits else "/tmp")  # noqa: S108 -- checked below
    folder = base / f"broker-{os.geteuid()}-{blake2b(os.fsencode(data.absolute()), digest_size=6).hexdigest()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    state = folder.lstat()
    if state.st_uid != os.geteuid() or state.st_mode != _PRIVATE_FOLDER:
        raise StoreMissing(f"{folder} belongs to another user or is open to others; remove it")
    return folder


def _is_one_word(text: str) -> bool:
    return not re.search(r"[\s=]", text)
