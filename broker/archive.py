"""Archive: a folder as one zip that is the same wherever and whenever it is made, and back again.

Names are sorted, times are 1980, and of the permissions only the right to execute is kept, so equal files make equal
bytes and their hash can be their name. Symbolic links are kept when they stay inside.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from broker.errors import BadArchive

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can tell."""

_BLOCK = 1 << 20


def pack(base: Path, files: Iterable[Path], target: Path) -> None:
    """Write files (absolute, below `base`) as a zip. Raises BadArchive for a link that leads out of `base`."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for file in sorted(files, key=lambda each: each.relative_to(base).as_posix()):
            _add(archive, base, file)


def _add(archive: zipfile.ZipFile, base: Path, file: Path) -> None:
    info = zipfile.ZipInfo(file.relative_to(base).as_posix(), EPOCH)
    info.create_system = 3  # Unix, so that external_attr is a mode, whoever packs
    info.compress_type = zipfile.ZIP_DEFLATED
    if file.is_symlink():
        target = str(file.readlink())
        if not (_stays_inside(PurePosixPath(info.filename), target) and _leads_into(base, file)):
            raise BadArchive(f"{info.filename} is a link to {target}, which is outside of {base}")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, target)
        return
    executable = file.stat().st_mode & 0o100
    info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    with file.open("rb") as source, archive.open(info, "w", force_zip64=True) as into:
        shutil.copyfileobj(source, into, _BLOCK)


def unpack(source: Path, folder: Path, *, most: int) -> None:
    """Unpack a zip into an empty folder. Raises BadArchive when it is damaged, or unpacks to more than `most` bytes."""
    left = most
    try:
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                left -= info.file_size
                if left < 0:
                    raise BadArchive(f"it unpacks to more than {most >> 20} MB")
                _extract(archive, info, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadArchive(f"the zip is damaged: {error}") from error
    check_links(folder)


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path) -> None:
    name = PurePosixPath(info.filename)
    if name.is_absolute() or ".." in name.parts or "\0" in info.filename:
        raise BadArchive(f"{info.filename!r} leads out of the folder")
    target = folder.joinpath(*name.parts)
    if any(parent.is_symlink() for parent in target.parents if parent.is_relative_to(folder)):
        raise BadArchive(f"{info.filename!r} lies behind a link")
    mode = info.external_attr >> 16
    if info.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISLNK(mode):
        link = archive.read(info).decode(errors="surrogateescape")
        if not _stays_inside(name, link):
            raise BadArchive(f"{info.filename!r} is a link to {link}, which is outside")
        target.symlink_to(link)
        return
    with archive.open(info) as packed, target.open("xb") as into:
        shutil.copyfileobj(packed, into, _BLOCK)
    target.chmod(0o755 if mode & 0o100 else 0o644)


def check_links(folder: Path) -> None:
    """Raise BadArchive if a link below a folder leads out of it, be it by way of other links."""
    for path in walk(folder):
        if path.is_symlink() and (path.readlink().is_absolute() or not _leads_into(folder, path)):
            raise BadArchive(f"{path.relative_to(folder)} is a link to {path.readlink()}, which is outside")


def _leads_into(folder: Path, path: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _stays_inside(name: PurePosixPath, link: str) -> bool:
    """Return whether a link of that name leads to a place below the folder."""
    if link.startswith("/"):
        return False
    depth = len(name.parts) - 1
    for part in PurePosixPath(link).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return False
    return True


def walk(folder: Path) -> Iterator[Path]:
    """Yield every file and link below a folder, in an order that is always the same; no pipes, sockets, devices."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for path in (Path(parent, name) for name in sorted([*files, *links])):
            if path.is_symlink() or path.is_file():
                yield path


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tree(folder: Path) -> str:
    """Return one SHA-256 for the names, rights to execute, link targets and contents of all that is below a folder."""
    digest = hashlib.sha256()
    for path in walk(folder):
        name = path.relative_to(folder).as_posix()
        kind, content = ("link", path.readlink()) if path.is_symlink() else (_kind(path), hash_file(path))
        digest.update(f"{name}\0{kind} {content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _kind(path: Path) -> str:
    return "program" if path.stat().st_mode & 0o100 else "file"
