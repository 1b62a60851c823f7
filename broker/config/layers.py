"""Layers: what types cannot say about `[layers.NAME]` tables, and about functions that name layers."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from broker.config.table import Reader
from broker.function import Function
from broker.layer import MOST, Layer
from broker.names import inside, nearest

LAYOUT = ("python", "nodejs", "bin", "lib")
"""The folders of AWS Lambda's layout that anything looks into."""


def check(
    reader: Reader, root: Path, layers: Mapping[str, Layer | None], functions: Mapping[str, Function | None]
) -> None:
    """Note what is wrong with layers, and with the layers of functions."""
    for name, layer in layers.items():
        if layer is not None:
            _check_layer(reader, inside("layers", name), layer, root)
    for function in functions.values():
        if function is not None:
            check_names(reader, f"{inside('functions', function.name)}.layers", function.layers, layers)


def check_names(reader: Reader, place: str, names: list[str], layers: Mapping[str, Layer | None]) -> None:
    """Note what is wrong with the layers that a function names."""
    if len(names) > MOST:
        reader.wrong(place, f"expected at most {MOST} layers, got {len(names)}")
    for number, name in enumerate(names, 1):
        if name not in layers:
            hint = nearest(name, layers) or f"known: {', '.join(layers) or 'none'}"
            reader.wrong(f"{place}#{number}", f"there is no layer {reader.show(name, f'{place}#{number}')}", hint)
        elif name in names[: number - 1]:
            reader.wrong(f"{place}#{number}", f"{name} is named twice")


def _check_layer(reader: Reader, place: str, layer: Layer, root: Path) -> None:
    installed = bool(layer.requirements or layer.packages)
    if installed == (layer.path is not None) and not reader.faulty(place):
        reader.wrong(place, "expected requirements, packages or both, or else a path")
    for key, listed in (("requirements", layer.requirements), ("packages", layer.packages)):
        for number, item in enumerate(listed if isinstance(listed, list) else [], 1):
            if not item.strip() or item.startswith("-"):
                shown = reader.show(item, f"{place}.{key}#{number}")
                hint = 'options stand in a file: requirements = "requirements.txt"' if key == "requirements" else ""
                reader.wrong(f"{place}.{key}#{number}", f"expected a package, got {shown}", hint)
    if isinstance(layer.requirements, str) and layer.requirements and not (root / layer.requirements).is_file():
        shown = reader.show(layer.requirements, f"{place}.requirements")
        reader.wrong(f"{place}.requirements", f"there is no file {shown} in {root}", "packages stand in a list")
    if layer.path is not None and (problem := _missing_layout(root / layer.path)):
        reader.wrong(f"{place}.path", f"{reader.show(layer.path, f'{place}.path')} {problem}")


def _missing_layout(path: Path) -> str:
    """Return what keeps a folder or zip from being a layer, or nothing."""
    if path.is_dir():
        tops = {each.name for each in path.iterdir() if each.is_dir()}
    elif path.is_file():
        try:
            with zipfile.ZipFile(path) as archive:
                tops = {name.partition("/")[0] for name in archive.namelist() if "/" in name}
        except (OSError, zipfile.BadZipFile):
            return "is no zip, and no folder"
    else:
        return "is not there"
    folders = ", ".join(f"{name}/" for name in LAYOUT)
    return "" if tops & set(LAYOUT) else f"has none of the folders {folders}"
