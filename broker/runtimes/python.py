"""Python, the one that runs broker: `handlers/hello.py:handler`, `package.module:handler`, `package.module.handler`."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Final

from broker.names import nearest
from broker.quantity import Size
from broker.runtimes import Speech

SPEECH: Final[Speech] = "python"
LANGUAGE: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
LEAST_MEMORY: Final = Size(16 << 20)


def problem(handler: str, root: Path) -> str:
    """Return what is missing for the handler to be there, without importing anything; or nothing."""
    module, _, name = handler.rpartition(":") if ":" in handler else handler.rpartition(".")
    is_file = module.endswith(".py") or "/" in module
    if not module or not all(part.isidentifier() for part in name.split(".")) or (is_file and ":" not in handler):
        forms = '"handlers/thumbnail.py:handler" or "package.module.handler"'
        return f"expected {forms}, got {json.dumps(handler, ensure_ascii=False)}"
    if is_file:
        path = root / module
        if path.is_file():
            return ""
        beside = [str(Path(module).parent / each.name) for each in path.parent.glob("*.py")]
        hint = nearest(module, beside)
        return f"there is no file {module} in {root}" + (f"; {hint}" if hint else "")
    return "" if _found(module, root) else f"there is no module {module}, neither in {root} nor installed"


def argv(handler: str, root: Path, memory: int) -> list[str]:
    """Return nothing: the process has Python already."""
    del handler, root, memory
    return []


def inner(handler: str) -> str:
    """Return what goes into _HANDLER."""
    return handler


def missing(handler: str, root: Path, path: str) -> str:
    """Return nothing: it runs."""
    del handler, root, path
    return ""


def defines(name: str, root: Path) -> bool:
    """Return whether there is `package.module.Name`, as far as the module's text tells, which is not run."""
    module, _, last = name.rpartition(".")
    spec = _found(module, root)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return spec is not None
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True  # it tells nothing
    return any(not {last, "*", "__getattr__"}.isdisjoint(_names(node)) for node in ast.walk(tree))


def _names(node: ast.AST) -> set[str]:
    """Return the names that a piece of a program makes."""
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {alias.asname or alias.name.partition(".")[0] for alias in names}
    return set()


def _found(module: str, root: Path) -> ModuleSpec | None:
    top, *rest = module.split(".")
    if not all(part.isidentifier() for part in (top, *rest)):
        return None
    spec: ModuleSpec | None = PathFinder.find_spec(top, [str(root)])
    if spec is None:
        try:
            spec = importlib.util.find_spec(top)  # imports nothing, as the name has no dot
        except ValueError:  # a module that was made by hand, such as __main__
            return None
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    return spec
