"""Folder: which files are below one folder, what they are, and whether somebody still writes them."""

from __future__ import annotations

import errno
import os
import re
import stat as modes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from sources._file.names import Names

if sys.platform == "linux":
    import fcntl
    import signal

Links = Literal["ignore", "inside", "anywhere"]

Writing = Literal["no", "yes", "unknown", "unreadable"]

_REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "coda", "gfs2", "glusterfs", "gpfs", "lustre"}
    | {"ncpfs", "ocfs2", "orangefs", "virtiofs", "vboxsf", "prl_fs"}
)
"""Types of file systems that other machines change unseen: inotify reports only what this machine does."""

_MOUNTS = Path("/proc/self/mountinfo")

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


class Folder(msgspec.Struct, frozen=True, kw_only=True):
    """A watched folder. Paths are relative to it, with `/` between their parts; "" is the folder itself."""

    root: str
    names: Names
    recursive: bool
    links: Links
    avoided: frozenset[str] = frozenset()
    """Folders that are not looked into: `done`."""
    remote: bool = False
    """Others may change files here unseen by this machine's kernel."""

    def path(self, relative: str) -> str:
        """Return the absolute path."""
        return f"{self.root}/{relative}" if relative else self.root

    def stat(self, path: str) -> os.stat_result | None:
        """Return what a file is; None when there is none that counts at this path (any more).

        Raises OSError when it cannot be known.
        """
        absolute = self.path(path)
        try:
            found = os.lstat(absolute)
            if modes.S_ISLNK(found.st_mode):
                if not self._may_follow(absolute):
                    return None
                found = os.stat(absolute)  # noqa: PTH116 -- names are text with surrogates all through this package
        except OSError as error:
            if error.errno in _GONE or error.errno == errno.ELOOP:
                return None
            raise
        return found if modes.S_ISREG(found.st_mode) else None

    def counts(self, path: str) -> bool:
        """Say whether a file at this path counts, by its name and the folders it is in."""
        parts = path.split("/")[:-1]
        return self.names.counts(path) and all(self.enters("/".join(parts[:n])) for n in range(1, len(parts) + 1))

    def walk(
        self,
        start: str = "",
        *,
        entering: Callable[[str, os.stat_result], None],
        failed: Callable[[str, OSError], None],
        stopping: Callable[[], bool],
    ) -> Iterator[tuple[str, os.stat_result]]:
        """Yield every file below `start` that counts.

        `entering` is called for each folder before it is listed, so that a watch set there misses nothing; `failed` for
        each path that cannot be looked at, and the walk goes on. No folder is entered twice, so links in a circle end.
        """
        entered: set[tuple[int, int]] = set()
        ahead = [start]
        while ahead and not stopping():
            folder = ahead.pop()
            try:
                found = os.stat(self.path(folder))  # noqa: PTH116 -- as above
                if not modes.S_ISDIR(found.st_mode) or (found.st_dev, found.st_ino) in entered:
                    continue
                entered.add((found.st_dev, found.st_ino))
                entering(folder, found)
                with os.scandir(self.path(folder)) as entries:
                    for entry in entries:
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        try:
                            if (file := self._file(entry, path)) is not None:
                                yield path, file
                            elif self.recursive and self._is_entered(entry, path):
                                ahead.append(path)
                        except OSError as error:
                            failed(path, error)
            except OSError as error:
                failed(folder, error)

    def enters(self, folder: str) -> bool:
        """Say whether the walk enters this folder, if it is one and no link."""
        return self.recursive and folder not in self.avoided and self.names.enters(folder)

    def writing(self, path: str) -> Writing:
        """Say whether some process has the file open for writing.

        Linux knows: it grants a read lease only on a file that nobody has open for writing (fcntl(2), "Leases"), and
        only to the file's owner or with CAP_LEASE. `unknown` where that is not said, as on remote file systems;
        `unreadable` when the file may not be opened. Raises OSError when there is no such file.
        """
        if self.remote:
            return "unknown" if os.access(self.path(path), os.R_OK) else "unreadable"
        try:
            # O_NONBLOCK: should a fifo have taken the file's place, this must not wait for its writer.
            handle = os.open(self.path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except BlockingIOError:
            return "yes"  # another process holds a write lease
        except PermissionError:
            return "unreadable"
        try:
            return _lease(handle)
        finally:
            os.close(handle)

    def _file(self, entry: os.DirEntry[str], path: str) -> os.stat_result | None:
        # The name first, then what the listing itself tells: most entries need no further system call, a file one.
        if not self.names.counts(path):
            return None
        if entry.is_symlink():
            return self.stat(path)
        return entry.stat(follow_symlinks=False) if entry.is_file(follow_symlinks=False) else None

    def _is_entered(self, entry: os.DirEntry[str], path: str) -> bool:
        if not self.enters(path):
            return False
        if entry.is_symlink():
            return self.links != "ignore" and entry.is_dir() and self._may_follow(entry.path)
        return entry.is_dir(follow_symlinks=False)

    def _may_follow(self, link: str) -> bool:
        """Say whether a link may be followed: never into an avoided folder, and out of the watched one if allowed."""
        if self.links == "ignore":
            return False
        target, root = os.path.realpath(link), os.path.realpath(self.root)
        if any(_is_below(target, os.path.realpath(self.path(avoided))) for avoided in self.avoided):
            return False
        return self.links == "anywhere" or _is_below(target, root)


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Root gives each to the owner of the one above, as whom functions run.

    Raises OSError.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        above = path.parent.stat()
        os.chown(path, above.st_uid, above.st_gid)


def is_remote(path: str) -> bool:
    """Say whether the file system of a path is one that others change unseen by this machine's kernel.

    Formats: proc_pid_mountinfo(5). Where there is no such file the answer is no.
    """
    path = os.path.realpath(path)
    best, kind = "", ""
    try:
        with _MOUNTS.open(encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                before, _, after = line.partition(" - ")
                point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])
                if len(point) >= len(best) and _is_below(path, point):
                    best, kind = point, after.split(" ")[0]
    except FileNotFoundError:
        return False
    return kind in _REMOTE or kind.startswith("fuse.")


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _lease(handle: int) -> Writing:
    if sys.platform != "linux":
        return "unknown"
    try:
        # The kernel tells the holder of a lease that somebody waits for it, by SIGIO, which would end this process.
        # SIGURG does nothing where no handler is set.
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return "yes"
    except OSError:
        return "unknown"
    fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return "no"
