"""Packages made on the spot, so that layers are built without any network: a wheel, and a tarball of npm."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def wheel(folder: Path, name: str = "tiny", version: str = "1.0", *, needs: str = "", **files: str) -> Path:
    """Write a wheel with a module of its name, which says its version, and a command of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if needs:
        metadata += f"Requires-Dist: {needs}\n"
    contents = {
        f"{name}.py": f"version = {version!r}\ndef main(): print('{name} {version}')\n",
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-say = {name}:main\n",
    }
    contents[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*contents, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in contents.items():
            archive.writestr(each, text)
    return path


def tarball(folder: Path, name: str = "tiny", version: str = "1.0.0") -> Path:
    """Write an npm package whose value is its version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tgz"
    contents = {
        "package/package.json": json.dumps({"name": name, "version": version, "main": "index.js"}),
        "package/index.js": f"module.exports = {version!r};\n",
    }
    with tarfile.open(path, "w:gz") as archive:
        for each, text in contents.items():
            member = tarfile.TarInfo(each)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path
