"""Back up the database and the inbox into one archive, which is read back before it counts."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from handlers import database

INBOX = Path(os.environ.get("INBOX", "inbox"))
BACKUPS = Path(os.environ.get("BACKUPS", "backups"))

KEEP = int(os.environ.get("KEEP", "7"))
"""How many archives are kept, the newest ones; 0: all."""

MANIFEST = "MANIFEST.sha256"
"""In the archive, as `sha256sum --check` reads it."""

_NAME = re.compile(r"backup-\d{8}T\d{6}Z\.tar\.gz")


class BackupDamaged(Exception):
    """What was written is not what was to be backed up."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Write `backups/backup-TIME.tar.gz`, and delete all but the newest archives.

    TIME is when the event was due, so a second attempt makes no second archive. Returns `{"archive", "files",
    "bytes", "deleted"}`. Raises BackupDamaged; then no archive was added or deleted.
    """
    archive = BACKUPS / f"backup-{_moment(event):%Y%m%dT%H%M%SZ}.tar.gz"
    # Named by the invocation: a second attempt clears away what a first one left that was killed.
    folder = BACKUPS / f".{context.aws_request_id}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        manifest = _write(folder / archive.name, folder)
        _verify(folder / archive.name, manifest, folder)
        (folder / archive.name).replace(archive)
    finally:
        shutil.rmtree(folder)
    _sync(BACKUPS)
    deleted = _delete_old()
    print(f"{archive}: {len(manifest)} files, {archive.stat().st_size} bytes; {len(deleted)} old ones deleted")
    return {
        "archive": str(archive),
        "files": len(manifest),
        "bytes": archive.stat().st_size,
        "deleted": deleted,
    }


def _moment(event: dict[str, Any]) -> datetime:
    due = (event.get("data") or {}).get("due") or event["time"]
    return datetime.fromisoformat(due).astimezone(UTC)


def _write(archive: Path, folder: Path) -> dict[str, str]:
    """Write the archive and have it on the disk; return name -> SHA-256 of what is in it."""
    manifest: dict[str, str] = {}
    with archive.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, path in _files(folder):
                _add(tar, name, path, manifest)
            text = _listing(manifest)
            tar.addfile(_member(MANIFEST, len(text), 0), BytesIO(text))
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield name in the archive and path of each file: a copy of the database, made in `folder`, and the inbox."""
    if database.PATH.exists():
        copy = folder / database.PATH.name
        # SQLite's own backup is of one moment, also while others write.
        with closing(sqlite3.connect(database.PATH, timeout=database.PATIENCE)) as source, closing(_sqlite(copy)) as to:
            source.backup(to)
        yield database.PATH.name, copy
    for path in sorted(INBOX.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield f"inbox/{path.relative_to(INBOX)}", path


def _add(tar: tarfile.TarFile, name: str, path: Path, manifest: dict[str, str]) -> None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        print(f"{path} was moved away meanwhile")
        return
    with file:
        status = os.fstat(file.fileno())
        reader = _Hashing(file)
        # As many bytes as it has now: should it grow meanwhile, it is whole in the next backup.
        tar.addfile(_member(name, status.st_size, status.st_mtime), reader)
        manifest[name] = reader.digest.hexdigest()


def _listing(manifest: dict[str, str]) -> bytes:
    lines = []
    for name, digest in manifest.items():
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n")
        mark = "" if escaped == name else "\\"  # so sha256sum says that a name is escaped
        lines.append(f"{mark}{digest}  {escaped}\n")
    return "".join(lines).encode(errors="surrogateescape")


def _member(name: str, size: int, mtime: float) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, int(mtime), 0o600
    return member


def _verify(archive: Path, manifest: dict[str, str], folder: Path) -> None:
    """Read the archive back; raise BackupDamaged when it is not what the manifest says."""
    found: dict[str, str] = {}
    with tarfile.open(archive, mode="r:gz") as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is None:
                raise BackupDamaged(f"{member.name} is no file")
            digest, size = hashlib.sha256(), 0
            target = folder / "restored" if member.name == database.PATH.name else Path(os.devnull)
            with target.open("wb") as restored:
                while chunk := content.read(1 << 20):
                    digest.update(chunk)
                    size += restored.write(chunk)
            if size != member.size:
                raise BackupDamaged(f"{member.name}: {size} bytes instead of {member.size}")
            found[member.name] = digest.hexdigest()
    expected = {**manifest, MANIFEST: hashlib.sha256(_listing(manifest)).hexdigest()}
    if found != expected:
        wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise BackupDamaged(f"not as it was read: {', '.join(wrong)}")
    if database.PATH.name in manifest:
        with closing(_sqlite(folder / "restored")) as restored_database:
            if (answer := restored_database.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                raise BackupDamaged(f"{database.PATH.name}: {answer}")


def _delete_old() -> list[str]:
    names = sorted(path.name for path in BACKUPS.iterdir() if _NAME.fullmatch(path.name))
    old = names[:-KEEP] if KEEP else []
    for name in old:
        (BACKUPS / name).unlink()
    return old


def _sqlite(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path)


def _sync(folder: Path) -> None:
    """Have the folder's new entry on the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self.digest.update(chunk)
        return chunk
