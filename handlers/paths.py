"""Paths: an event's path, confined to the folder that its function is for."""

from __future__ import annotations

from pathlib import Path


def inside(folder: Path, path: str) -> Path:
    """Return the path with links and `..` resolved. Raises PermissionError when it leads out of the folder."""
    resolved = Path(path).resolve()
    if not resolved.is_relative_to(folder.resolve()):
        raise PermissionError(f"{path} is not in {folder}")
    return resolved
