"""Mend the append-only file of the embedded server after a power failure.

The server itself copes with a file that ends in the middle of a command (`aof-load-truncated`). It refuses one that
ends in garbage, which is what a file system may leave of writes that never reached the disk: mostly zeros.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

from broker.errors import StoreMissing

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

FOLDER = "appendonlydir"
"""The server's default for `appenddirname`."""

_MANIFEST = "appendonly.aof.manifest"

MOST = 1 << 20
"""So many bytes of garbage are cut off without asking; zeros without limit. More may be damage of another kind."""

_REFUSAL = re.compile(r"Bad file format reading the append only file (\S+?):")
_ANALYSIS = re.compile(r"ok_up_to=(\d+)")


def damaged(log: str) -> str | None:
    """Return the name of the file that the server refused to load, according to its log."""
    match = _REFUSAL.search(log)
    return match[1] if match else None


def newest(folder: Path) -> str:
    """Return the name of the file that the server appends to. Raises OSError when there is no manifest."""
    names = _names(folder, "i")
    return names[-1] if names else ""


def sizes(folder: Path) -> tuple[int, int]:
    """Return how many bytes are in the base file, and in those that were begun since. Raises OSError."""
    base, appended = (sum((folder / name).stat().st_size for name in _names(folder, kind)) for kind in "bi")
    return base, appended


def _names(folder: Path, kind: str) -> list[str]:
    """Return the files of a kind: `b` for the base, `i` for the incremental ones, of which the last is written to."""
    # A line of the manifest: `file NAME seq NUMBER type i`.
    manifest = (folder / _MANIFEST).read_text()
    return [line.split()[1] for line in manifest.splitlines() if line.endswith(f" type {kind}")]


def mend(data: Path, name: str, binary: Path) -> str:
    """Cut the garbage off the end of the newest append-only file, keep it beside, and say so in one sentence.

    Raises StoreMissing when the damage is elsewhere or too large to be the end that a power failure left unwritten.
    """
    path = data / FOLDER / name
    whole, good = path.stat().st_size, _good_bytes(path, binary)
    with path.open("rb") as file:
        file.seek(good)
        at_the_end = name == newest(data / FOLDER) and 0 < good < whole
        if not at_the_end or not (whole - good <= MOST or _only_zeros(file)):
            raise StoreMissing(
                f"the embedded Redis cannot read {path}: it is damaged at byte {good} of {whole}, and not only at its "
                f"end. Copy the folder, then repair it with valkey-check-aof --fix, or restore a backup"
            )
        file.seek(good)
        kept = path.with_name(f"{name}.cut-at-{good}")
        with kept.open("xb") as rest:
            while block := file.read(1 << 20):
                rest.write(block)
    os.truncate(path, good)
    return f"{path.name} ended in {whole - good} bytes of garbage (a power failure?); they are now in {kept}"


def _good_bytes(path: Path, binary: Path) -> int:
    # The server's binary is the checker as well, when it is called by that name.
    checker = binary.name.replace("-server", "-check-aof")
    report = subprocess.run(
        [checker, str(path)], executable=binary, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    match = _ANALYSIS.search(report.stdout)
    return int(match[1]) if match else 0


def _only_zeros(file: BinaryIO) -> bool:
    while block := file.read(1 << 20):
        if block.count(0) != len(block):
            return False
    return True
