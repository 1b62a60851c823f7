"""`broker layers`: which layers there are; build them before they are needed; remove those that nobody asks for."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from broker.cli._given import check_name
from broker.cli._output import Column, json_option, print_json, print_table
from broker.cli._project import Project, pass_project
from broker.cli._when import length
from broker.errors import LayerFailed
from broker.quantity import Size
from broker.runtime import layers as building
from broker.runtime import shelf

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from broker.config import Config
    from broker.layer import Layer

COLUMNS = [
    Column(key="name", title="layer"),
    Column(key="made_of", title="made of"),
    Column(key="functions", title="used by"),
    Column(key="state"),
    Column(key="size", right=True, folds=False),
    Column(key="folder"),
]


@click.group()
def layers() -> None:
    """Look at layers, build them, remove those that nobody asks for.

    A layer holds dependencies that functions share.
    """


@layers.command("list")
@json_option
@pass_project
def list_(project: Project, *, as_json: bool) -> None:
    """List the layers."""
    config = project.config
    rows = [_row(config, layer, as_json=as_json) for layer in config.layers.values()]
    print_table(rows, COLUMNS, as_json=as_json, nothing="no layers: config.toml has no [layers.NAME] table")


@layers.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@json_option
@pass_project
def build(project: Project, *, names: tuple[str, ...], as_json: bool) -> int:
    """Build layers now; all, when none is named.

    The exit code is 1 when one cannot be built.
    """
    config = project.config
    for name in names:
        check_name("layer", name, config.layers)
    done = []
    for name in names or config.layers:
        begun = time.monotonic()
        try:
            with _progress(f"building {name}", quiet=as_json):
                folder = building.build(config.layers[name], config.root, config.data)
        except LayerFailed as error:
            done.append({"name": name, "folder": None, "error": str(error)})
            if not as_json:
                click.echo(f"{click.style('failed:', fg='red')} {error}", err=True)
        else:
            done.append({"name": name, "folder": str(folder), "error": None})
            if not as_json:
                click.echo(f"{name}: {folder} ({length(time.monotonic() - begun)})")
    if as_json:
        print_json(done)
    elif not done:
        click.echo("no layers: config.toml has no [layers.NAME] table")
    return 1 if any(row["error"] for row in done) else 0


@layers.command()
@json_option
@pass_project
def prune(project: Project, *, as_json: bool) -> None:
    """Remove built layers that no table of the configuration asks for."""
    config = project.config
    keep = [building.fingerprint(layer, config.root) for layer in config.layers.values()]
    removed = shelf.prune(building.folder_of(config.data), keep)
    if as_json:
        print_json([{"hash": digest, "bytes": size} for digest, size in removed])
        return
    freed = Size(sum(size for _, size in removed))
    click.echo(f"{len(removed)} layer{'' if len(removed) == 1 else 's'} removed, {_short(freed)} freed")


def _row(config: Config, layer: Layer, *, as_json: bool) -> dict[str, Any]:
    try:
        folder, problem = building.built(layer, config.root, config.data), ""
    except LayerFailed as error:
        folder, problem = None, str(error)
    used = [function.name for function in config.functions.values() if layer.name in function.layers]
    size = shelf.size(folder) if folder else None
    row = {"name": layer.name, "folder": str(folder) if folder else None, "state": "built" if folder else "not built"}
    if as_json:
        made_of = {"requirements": layer.requirements, "packages": layer.packages, "path": layer.path}
        return {**row, **made_of, "functions": used, "bytes": size, "problem": problem or None}
    listed = layer.requirements if isinstance(layer.requirements, list) else [layer.requirements]
    parts = [*listed, *layer.packages, layer.path or ""]
    folder_shown = str(folder.relative_to(config.root)) if folder and folder.is_relative_to(config.root) else folder
    return {
        **row,
        "made_of": ", ".join(filter(None, parts)),
        "functions": ", ".join(used),
        "state": problem or row["state"],
        "size": "" if size is None else _short(Size(size)),
        "folder": folder_shown,
    }


def _short(size: Size) -> str:
    return f"{size / (1 << 20):.1f}MB"


def _progress(text: str, *, quiet: bool) -> AbstractContextManager[object]:
    """Return what shows that something goes on, to people who look."""
    if quiet or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console  # noqa: PLC0415 -- 80 ms, only when there is somebody to look at it

    return Console(stderr=True).status(text)
