"""Layers: build one, once for what it consists of, whoever else is building it at the same time.

A built layer is the folder `layers/HASH` of the data folder, in AWS Lambda's layout.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from uv import find_uv_bin

from broker import archive
from broker.errors import BadArchive, LayerFailed
from broker.layer import Layer
from broker.leash import leashed
from broker.runtime import shelf
from broker.runtime.birth import INHERITED

LONGEST = 900.0
"""Seconds that an installer may take."""

LARGEST = 4 << 30
"""Bytes that a zip may unpack to."""

_FORMAT = 1
"""Part of the hash; raised when the same layer would be built differently."""

_TOLD_LINES = 40
_KEPT = re.compile(r"(?i)(uv|pip|npm|node|ssl|xdg)_.*|.*_proxy|te?mp(dir)?")
_BEFORE = r"(?:^|@\s*|^-[a-z]\s*|^--\S+[ =]\s*)(?:file:(?://)?)?"
_LOCAL = re.compile(_BEFORE + r"(\.{0,2}/[^\s;#]+|[^\s;#:]+\.(?:whl|zip|tgz|tar\.gz|txt))")
"""What in a line of requirements, or among npm's packages, names a file or folder."""


def folder_of(data: Path) -> Path:
    """Return the folder of the built layers."""
    return data / "layers"


def built(layer: Layer, root: Path, data: Path) -> Path | None:
    """Return the folder of the layer if it is built. Raises LayerFailed when what it names cannot be read."""
    folder = folder_of(data) / fingerprint(layer, root)
    return folder if folder.is_dir() else None


def build(layer: Layer, root: Path, data: Path) -> Path:
    """Return the folder of the layer, built if it is not yet; wait for another process that builds it.

    Raises LayerFailed with what the installer said.
    """
    try:
        return shelf.make(folder_of(data), fingerprint(layer, root), lambda folder: _fill(layer, root, folder))
    except OSError as error:
        raise LayerFailed(f"layer {layer.name}: {error}") from error


def fingerprint(layer: Layer, root: Path) -> str:
    """Return the hash of all that decides what the layer contains. Raises LayerFailed when a part is not there."""
    try:
        if layer.path is not None:
            path = root / layer.path
            content = archive.hash_tree(path) if path.is_dir() else archive.hash_file(path)
            said: dict[str, object] = {"path": content}
        else:
            said = {
                "requirements": layer.requirements,
                "packages": layer.packages,
                "files": dict(_files(layer, root)),
                "python": [sys.implementation.cache_tag, sysconfig.get_platform()],
            }
    except OSError as error:
        raise LayerFailed(f"layer {layer.name}: {error}") from error
    return hashlib.sha256(json.dumps([_FORMAT, said], sort_keys=True).encode()).hexdigest()


def _files(layer: Layer, root: Path) -> Iterator[tuple[str, str]]:
    """Yield name and hash of each file and folder that the layer's packages are taken from."""
    listed = layer.requirements
    yield from _named([f"-r {listed}"] if isinstance(listed, str) else listed, root, root)
    yield from _named(layer.packages, root, root)


def _named(lines: Sequence[str], root: Path, base: Path) -> Iterator[tuple[str, str]]:
    for line in lines:
        if (match := _LOCAL.search(line.strip())) is None:
            continue
        for path in {base / match[1], root / match[1]}:
            if path.is_dir():
                yield match[1], archive.hash_tree(path)
            elif path.is_file():
                yield match[1], archive.hash_file(path)
                if line.startswith("-"):  # another list: -r, -c
                    yield from _named(path.read_text().splitlines(), root, path.parent)


def _fill(layer: Layer, root: Path, work: Path) -> None:
    if layer.path is not None:
        source = root / layer.path
        try:
            if source.is_dir():
                shutil.copytree(source, work, symlinks=True, dirs_exist_ok=True)
                archive.check_links(work)
            else:
                archive.unpack(source, work, most=LARGEST)
        except BadArchive as error:
            raise LayerFailed(f"layer {layer.name}: {layer.path}: {error}") from error
    if layer.requirements:
        _install_python(layer, root, work / "python")
    if layer.packages:
        _install_node(layer, root, work / "nodejs")


def _install_python(layer: Layer, root: Path, target: Path) -> None:
    listed = layer.requirements
    what = ["--requirements", listed] if isinstance(listed, str) else ["--", *listed]
    options = ["--target", str(target), "--python", sys.executable, "--compile-bytecode", "--no-progress"]
    try:
        uv = find_uv_bin()
    except FileNotFoundError as error:
        raise LayerFailed(f"layer {layer.name}: uv is not there: {error}") from error
    _run(layer, [uv, "pip", "install", *options, *what], root)


def _install_node(layer: Layer, root: Path, target: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise LayerFailed(f"layer {layer.name}: npm is not there; it comes with Node.js")
    target.mkdir()
    (target / "package.json").write_text('{"private": true}\n')
    packages = [str(root / name) if _LOCAL.match(name) and (root / name).exists() else name for name in layer.packages]
    options = ["--prefix", str(target), "--no-audit", "--no-fund", "--no-update-notifier", "--no-progress"]
    _run(layer, [npm, "install", *options, "--install-links", "--", *packages], root)


def _run(layer: Layer, command: list[str], root: Path) -> None:
    """Run an installer without our secrets. Raises LayerFailed with the end of what it printed."""
    kept = {name: value for name, value in os.environ.items() if name in INHERITED or _KEPT.fullmatch(name)}
    kept.pop("PYTHONPATH", None)
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env={**kept, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LONGEST,
            preexec_fn=leashed(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LayerFailed(f"layer {layer.name}: {name} took longer than {LONGEST / 60:.0f} minutes") from error
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip().splitlines()[-_TOLD_LINES:]
        block = "\n".join(f"  {line}" for line in said)
        raise LayerFailed(f"layer {layer.name}: {name} exited with status {done.returncode}:\n{block}")
