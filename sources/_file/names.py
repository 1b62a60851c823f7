"""Names: which files and folders below a watched folder count, by globs on their relative paths; pure.

A pattern without a slash is compared with the name, in whatever folder it is: `*.csv`. One with a slash is compared
with the whole path below the watched folder, one part at a time: `orders/*/[0-9]*.csv`, where `**` stands for any
number of folders, also none. `*`, `?` and `[...]` are those of the standard library's fnmatch; case matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate

Match = Callable[[str], object]

UNFINISHED = (
    "*.part",  # Firefox, and many that copy
    "*.partial",
    "*.filepart",  # WinSCP
    "*.crdownload",  # Chromium
    "*.download",  # Safari
    "*.tmp",  # write, then rename
    "*~",  # backup copies of editors
    "~$*",  # owner files of office suites
    "#*#",  # Emacs' auto-save files
    "4913",  # Vim tries with this name whether it may write to the folder
    ".*.sw?",  # Vim's swap files; from here on hidden ones, which count only with `hidden`
    ".#*",  # Emacs' locks
    ".~lock.*#",  # LibreOffice's locks
    ".*.??????",  # rsync
    ".nfs*",  # NFS: removed while open
    ".fuse_hidden*",  # FUSE: the same
)
"""Names that programs give to files which are not finished, or not meant for others."""


class Names:
    """The files that count, and the folders that are entered. Paths are relative and have `/` between their parts."""

    def __init__(self, *, include: Sequence[str], exclude: Sequence[str], hidden: bool) -> None:
        """Take patterns; `hidden`: names that begin with a dot count like others."""
        self._included = _any_of(include)
        self._excluded = _any_of(exclude)
        self._hidden = hidden

    def counts(self, path: str) -> bool:
        """Say whether the file at this path counts; its folder is one that is entered."""
        return self._passes(path) and bool(self._included(path))

    def enters(self, folder: str) -> bool:
        """Say whether this folder is looked into: it is neither hidden nor excluded."""
        return self._passes(folder)

    def _passes(self, path: str) -> bool:
        if not self._hidden and path[path.rfind("/") + 1 :].startswith("."):
            return False
        return not self._excluded(path)


def complaint(pattern: str) -> str:
    """Return what is wrong with a pattern, or nothing; it follows after the pattern in a sentence."""
    parts = pattern.split("/")
    if not pattern:
        return "is empty"
    if pattern.startswith("/"):
        return "begins with a slash: patterns are compared with the path below the watched folder"
    if not all(parts):
        return "has nothing between two slashes, or after the last one"
    if {".", ".."} & set(parts):
        return 'has a part "." or "..", which no path below the watched folder has'
    if any("**" in part and part != "**" for part in parts):
        return 'has "**" beside other characters: it must stand alone between slashes'
    if "**" in parts and len(parts) == 1:
        return 'is "**" alone: write "*", and recursive = true to look into folders'
    if re.search(r"\{[^}]*,[^}]*\}", pattern):
        return "has alternatives in braces, which are not known here: write one pattern for each"
    if any(_has_open_bracket(part) for part in parts):
        return 'has a "[" without its "]": write "[[]" for the character itself'
    return ""


def _has_open_bracket(part: str) -> bool:
    # What fnmatch takes for a set: "]" counts as a member when it comes first, also after "!".
    return "[" in re.sub(r"\[!?\]?[^\]]*\]", "", part)


def _any_of(patterns: Iterable[str]) -> Match:
    """Return what says whether one of the patterns matches a path."""
    of_names = [translate(pattern) for pattern in patterns if "/" not in pattern]
    name_matches = re.compile("|".join(of_names)).match if of_names else None
    paths = [[_part(part) for part in pattern.split("/")] for pattern in patterns if "/" in pattern]

    def matches(path: str) -> object:
        if name_matches and name_matches(path[path.rfind("/") + 1 :]):
            return True
        if not paths:
            return False
        parts = path.split("/")
        return any(_path_matches(pattern, parts) for pattern in paths)

    return matches


def _part(part: str) -> Match | None:
    """Return what matches one part of a path; None stands for `**`."""
    return None if part == "**" else re.compile(translate(part)).match


def _path_matches(pattern: Sequence[Match | None], parts: Sequence[str]) -> bool:
    # `reached` holds the positions in the pattern that the parts so far can have led to: linear in the length of the
    # path, whatever the pattern, where backtracking would be exponential in the number of `**`.
    reached = _over_stars(pattern, {0})
    for part in parts:
        following = set()
        for position in reached:
            if position == len(pattern):
                continue
            match = pattern[position]
            if match is None:
                following.add(position)
            elif match(part):
                following.add(position + 1)
        reached = _over_stars(pattern, following)
    return len(pattern) in reached


def _over_stars(pattern: Sequence[Match | None], reached: set[int]) -> set[int]:
    """Return the positions with those added that are reached when `**` stands for nothing."""
    position = 0
    while position < len(pattern):
        if position in reached and pattern[position] is None:
            reached.add(position + 1)
        position += 1
    return reached
