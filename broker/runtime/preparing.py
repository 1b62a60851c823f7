"""Preparing: what a process of its own does before a function can run: fetch its code, build its layers.

The worker starts it (staging.py), so that a build of minutes holds up nothing else. It gets a Task on its standard
input and answers with a Prepared on its standard output.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from broker import archive
from broker.config import Config, Settings
from broker.deployed import catalog, code
from broker.deployed.record import LARGEST_UNPACKED
from broker.errors import BrokerError, LayerFailed
from broker.layer import Layer
from broker.leash import follow_parent
from broker.runtime import layers, shelf
from broker.runtime.account import account_of
from broker.runtime.inside import kernel
from broker.runtime.stage import Stage
from broker.store import connection

if TYPE_CHECKING:
    from broker.function import Function

KEPT = 86400.0
"""Seconds for which code that no version refers to any more is kept here: attempts may still be running it."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a version of a function needs."""

    root: str
    data: str
    redis: str | None
    layers: list[Layer] = []
    code: str = ""
    others: bool = False
    """Whether it is for another user than the one that the broker runs as."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """Where it is now; or why it cannot be had."""

    root: str = ""
    layers: list[str] = []
    refusal: str = ""

    def stage(self) -> Stage:
        """Return it as the stage of environments."""
        return Stage(root=Path(self.root), layers=tuple(map(Path, self.layers)))


def task_for(config: Config, function: Function) -> Task:
    """Return what a function needs here. Raises LayerFailed when config.toml has no such layer."""
    unknown = [name for name in function.layers if name not in config.layers]
    if unknown:  # only a deployed function can name one
        raise LayerFailed(f"there is no layer {', '.join(unknown)} in {config.path}")
    return Task(
        root=str(config.root),
        data=config.settings.data,
        redis=config.settings.redis,
        layers=[config.layers[name] for name in function.layers],
        code=function.code,
        others=account_of(config, function) is not None,
    )


def prepare(task: Task) -> Prepared:
    """Return where all is that the task asks for, after having made what was missing."""
    root, data = Path(task.root), Path(task.root, task.data)
    try:
        folder = _fetch(task) if task.code else root
        built = [str(layers.build(layer, root, data)) for layer in task.layers]
        if task.others:
            data.chmod(data.stat().st_mode | 0o011)  # to pass through; what it must not see there has rights of its own
    except (BrokerError, OSError) as error:
        return Prepared(refusal=str(error))
    return Prepared(root=str(folder), layers=built)


def _fetch(task: Task) -> Path:
    """Return the folder of deployed code, fetched from Redis if it is not here yet."""
    root = Path(task.root)
    settings = Settings(data=task.data, redis=task.redis)
    here = Config(
        path=root / "config.toml", root=root, settings=settings, functions={}, sources={}, kinds={}, triggers=()
    )

    def fill(folder: Path) -> None:
        packed = folder / f"{secrets.token_hex(16)}.zip"
        with connection.connect(here) as client:
            code.get(client, task.code, packed)
            known = catalog.codes(catalog.read(client)[1])
        archive.unpack(packed, folder, most=LARGEST_UNPACKED)
        packed.unlink()
        _tidy(here.data / "code", known)

    return shelf.make(here.data / "code", task.code, fill)


def _tidy(codes: Path, known: set[str]) -> None:
    """Remove code that no version refers to any more, unless attempts may still be running it."""
    recent = set()
    for path in codes.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process has finished it, or removed it
            if path.stat().st_mtime > time.time() - KEPT:
                recent.add(path.name)
    shelf.prune(codes, known | recent)


def main() -> None:
    """Do one task."""
    kernel.keep_secrets()
    follow_parent()
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    sys.stdout.buffer.write(msgspec.json.encode(prepare(task)))
