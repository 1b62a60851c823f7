"""Preparing: what a process of its own does before a function can run: build its layers.

The worker starts it (staging.py), so that a build of minutes holds up nothing else. It gets a Task on its standard
input and answers with a Prepared on its standard output.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from broker.errors import BrokerError
from broker.layer import Layer
from broker.leash import follow_parent
from broker.runtime import layers
from broker.runtime.stage import Stage

if TYPE_CHECKING:
    from broker.config import Config
    from broker.function import Function


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a version of a function needs."""

    root: str
    data: str
    layers: list[Layer] = []


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """Where it is now; or why it cannot be had."""

    root: str = ""
    layers: list[str] = []
    refusal: str = ""

    def stage(self) -> Stage:
        """Return it as the stage of environments."""
        return Stage(root=Path(self.root), layers=tuple(map(Path, self.layers)))


def task_for(config: Config, function: Function) -> Task:
    """Return what a function needs here."""
    layers_ = [config.layers[name] for name in function.layers]
    return Task(root=str(config.root), data=str(config.data), layers=layers_)


def prepare(task: Task) -> Prepared:
    """Return where all is that the task asks for, after having made what was missing."""
    root, data = Path(task.root), Path(task.data)
    try:
        built = [str(layers.build(layer, root, data)) for layer in task.layers]
    except (BrokerError, OSError) as error:
        return Prepared(refusal=str(error))
    return Prepared(root=task.root, layers=built)


def main() -> None:
    """Do one task."""
    follow_parent()
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    sys.stdout.buffer.write(msgspec.json.encode(prepare(task)))
