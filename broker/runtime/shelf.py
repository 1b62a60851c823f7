"""Shelf: folders named by a hash of all that decides their content, each made once, whoever else is making it.

A folder gets its name when it is complete, and never changes after that; so whoever sees it may use it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from broker import archive

_SHORT = 16
"""Digits of the hash in the names of locks and of unfinished folders."""


def make(shelf: Path, digest: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder of that hash; `fill` is given a new folder when it is not there and nobody else makes it.

    What `fill` raises leaves nothing behind.
    """
    target = shelf / digest
    if target.is_dir():
        return target
    shelf.parent.mkdir(parents=True, exist_ok=True)
    with _readable():
        shelf.mkdir(exist_ok=True)
        return _make(target, fill)


def _make(target: Path, fill: Callable[[Path], None]) -> Path:
    shelf, digest = target.parent, target.name
    with _locked(_lock_of(target)):
        if target.is_dir():
            return target
        for left in shelf.glob(f".{digest[:_SHORT]}.*"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        work = shelf / f".{digest[:_SHORT]}.{secrets.token_hex(4)}"
        try:
            work.mkdir()
            fill(work)
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def prune(shelf: Path, keep: Iterable[str]) -> list[tuple[str, int]]:
    """Remove all folders but those of these hashes, and what was left unfinished; return what, and its bytes."""
    kept, removed = set(keep), []
    for path in sorted(shelf.iterdir()) if shelf.is_dir() else ():
        if not path.is_dir() or path.name in kept:
            continue
        with _locked(_lock_of(path), wait=False) as ours:
            if ours:
                removed.append((path.name, size(path)))
                shutil.rmtree(path, ignore_errors=True)
    return removed


def size(folder: Path) -> int:
    """Return how many bytes the files of a folder have."""
    return sum(path.lstat().st_size for path in archive.walk(folder))


def _lock_of(folder: Path) -> Path:
    return folder.parent / f"{folder.name.lstrip('.')[:_SHORT]}.lock"


@contextmanager
def _readable() -> Iterator[None]:
    """Let other users read what is made, whatever the umask says: functions may run as one of them."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock that the kernel gives back when its owner ends; False when another holds it and we do not wait."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
