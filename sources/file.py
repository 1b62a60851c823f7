"""File: a folder is watched; files that are created, changed or deleted there are events.

    [sources.inbox]
    kind = "file"
    path = "inbox"
    include = ["*.csv"]
    on_done = "move"

An event's type is `file.created`, `file.modified` or `file.deleted`, its subject the path below the folder, its data
`path` (absolute), `name`, `folder` (the part of the subject before the name, "" at the top), `size` in bytes and
`mtime`; a name that is not UTF-8 is also there as `path_base64`. A file that is renamed within the folder is a new file
under its new name. Links, pipes, sockets and devices are no files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from broker.errors import SourceError
from broker.quantity import Duration
from broker.source import Source, SourceContext
from sources._file.done import Away
from sources._file.event import Change
from sources._file.examine import Examiner
from sources._file.folder import Folder, Links, is_remote, make_folder
from sources._file.follow import Follower
from sources._file.hints import Hints
from sources._file.listen import listen
from sources._file.names import UNFINISHED, Names, complaint
from sources._file.s3 import notification


class File(Source, frozen=True, kw_only=True):
    """The options of a file source."""

    path: str
    """The folder; relative to config.toml."""
    create: bool = True
    """Make the folder at the start when it is not there; without, it is waited for."""
    recursive: bool = False
    """Look into folders below it, too."""
    include: tuple[str, ...] = ("*",)
    """The files that count: `*.csv` in any folder, `orders/*/*.csv` by the path below the folder, `**` any folders."""
    exclude: tuple[str, ...] = ()
    """Files that do not count, and folders that are not entered; written like `include`."""
    unfinished: tuple[str, ...] = UNFINISHED
    """More to exclude: names that programs give to files which are not finished."""
    hidden: bool = False
    """Names that begin with a dot count, too."""
    on_created: bool = True
    """Files that are new are events."""
    on_modified: bool = True
    """New contents of known files are events."""
    on_deleted: bool = False
    """Files that were removed or moved away are events, except by `on_done`."""
    on_done: Literal["keep", "move", "delete"] = "keep"
    """What becomes of a file once every function of its event has ended. `move`: to `done`, or to `failed` when one of
    them ended as a dead letter. `delete`: as `move`, but what would go to `done` is deleted."""
    done: str = "done"
    """A folder; relative to the watched one. It is not watched itself."""
    failed: str = "failed"
    """As `done`."""
    symlinks: Links = "ignore"
    """`inside`: links are followed to what is below the folder; `anywhere`: wherever they lead."""
    watch: Literal["auto", "inotify", "poll"] = "auto"
    """`auto`: what this system has (inotify on Linux), but `poll` on network shares, where others' changes go unheard.
    `poll`: scans alone; a file is complete when it has settled."""
    scan: Duration = Duration(10)
    """The time between two scans of everything. When a folder is so large that this took more than 1 percent of a
    processor, scans are further apart."""
    settle: Duration = Duration(2)
    """A file of which it cannot be known whether it is still being written is complete when its size and mtime have not
    changed for this long. Linux tells it of local files that belong to broker's own user, or of all when it has
    CAP_LEASE (as root has); of others it is heard when they are closed, and these wait only when that was missed."""

    def check(self, root: Path) -> list[str]:
        """Return what is wrong with the options."""
        problems = [*self._folder_problems(root), *self._pattern_problems()]
        if not self._wanted():
            problems.append("on_created, on_modified and on_deleted are all false: nothing would be an event")
        if not self.scan:
            problems.append("scan must be longer than 0s")
        if self.watch == "inotify" and sys.platform != "linux":
            problems.append('watch: "inotify" is there on Linux only; "auto" takes what this system has')
        return problems

    def claims(self, root: Path) -> list[str]:
        """Return the files that this source would move away under another one's hands."""
        if self.on_done == "keep":
            return []
        return [f"{self._folder(root)}: {pattern} (on_done)" for pattern in sorted(self.include)]

    def plan(self, root: Path) -> list[str]:
        """Return what is watched, how, and what becomes of the files."""
        where = f"{self.path.rstrip('/')}/{'**/' if self.recursive else ''}"
        how = "polled" if self._polls(root) else "inotify" if sys.platform == "linux" else "watched"
        lines = [f"watches {', '.join(where + pattern for pattern in self.include)} ({how}, scan every {self.scan})"]
        if self.on_done == "move":
            lines.append(f"moves files to {self.done} or {self.failed} when their functions have ended")
        elif self.on_done == "delete":
            lines.append(f"deletes files when their functions have ended; moves them to {self.failed} when one failed")
        return lines

    def aws(self, event: dict[str, Any], attempt: int) -> Any:
        """Return S3's notification of it."""
        return notification(event) or super().aws(event, attempt)

    def run(self, context: SourceContext) -> None:
        """Publish what happens in the folder until the context is stopping.

        Raises SourceError when the folder cannot be made.
        """
        root = self._folder(context.root)
        if self.create:
            try:
                make_folder(root)
            except OSError as error:
                raise SourceError(f"the folder cannot be made: {error}") from error
        done, failed = self._beside(context.root, self.done), self._beside(context.root, self.failed)
        folder = Folder(
            root=str(root),
            names=Names(include=self.include, exclude=[*self.exclude, *self.unfinished], hidden=self.hidden),
            recursive=self.recursive,
            links=self.symlinks,
            avoided=frozenset(str(place.relative_to(root)) for place in (done, failed) if root in place.parents),
            remote=self._polls(context.root) or is_remote(str(root)),
        )
        moves = self.on_done != "keep"
        examiner = Examiner(context, folder, settle=self.settle, wanted=self._wanted(), track=moves)
        away = Away(folder, examiner.journal, context.log, done=done if self.on_done == "move" else None, failed=failed)
        Follower(
            context,
            folder,
            examiner,
            listen=lambda: self._listen(context, folder),
            away=away if moves else None,
            scan=self.scan,
        ).run()

    def _folder_problems(self, root: Path) -> Iterator[str]:
        folder = self._folder(root)
        moves = self.on_done != "keep"
        if not self.path:
            yield "path is empty"
        elif folder.exists() and not folder.is_dir():
            yield f"path: {folder} is not a folder"
        elif folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
            yield f"path: {folder} may not be read"
        elif folder.is_dir() and moves and not os.access(folder, os.W_OK):
            yield f"on_done: nothing can be moved out of {folder}, which may not be written"
        if moves:
            for option, place in (("done", self.done), ("failed", self.failed)):
                if self._beside(root, place) == folder:
                    yield f"{option} is the watched folder itself"

    def _pattern_problems(self) -> Iterator[str]:
        if not self.include:
            yield "include is empty: no file would count"
        options = {"include": self.include, "exclude": self.exclude, "unfinished": self.unfinished}
        for option, patterns in options.items():
            for pattern in patterns:
                if wrong := complaint(pattern):
                    yield f'{option}: the pattern "{pattern}" {wrong}'
                elif "/" in pattern and option == "include" and not self.recursive:
                    yield f'include: the pattern "{pattern}" is about folders below; it needs recursive = true'

    def _listen(self, context: SourceContext, folder: Folder) -> Hints:
        if self._polls(context.root):
            return Hints()
        return listen(folder.root, recursive=self.recursive, share=context.share, log=context.log)

    def _polls(self, root: Path) -> bool:
        return self.watch == "poll" or (self.watch == "auto" and is_remote(str(self._folder(root))))

    def _folder(self, root: Path) -> Path:
        return Path(os.path.normpath(root.absolute() / self.path))

    def _beside(self, root: Path, place: str) -> Path:
        return Path(os.path.normpath(self._folder(root) / place))

    def _wanted(self) -> list[Change]:
        said: dict[Change, bool] = {
            "created": self.on_created,
            "modified": self.on_modified,
            "deleted": self.on_deleted,
        }
        return [change for change, wanted in said.items() if wanted]
