"""Imports go down only: the table in docs/architecture.md says where down is, and every import is held against it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
TOPS = ("broker", "sources", "handlers")

ALLOWED = {
    # (file, room it imports): why
    ("broker/runtime/pool.py", "attempt"): "for annotations alone; attempts need the messages of environments",
    ("broker/runtime/crew.py", "attempt"): "the same",
    ("sources/_schedule/ticker.py", "sources.schedule"): "for annotations alone: the options of its own kind",
}

FOR_SOURCES = {"errors", "event", "quantity", "names", "source", "cloudevents", "identity", "payload"}

INSIDE = "broker/runtime/inside"


def files(top: str) -> Iterator[Path]:
    return (ROOT / top).rglob("*.py")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find(module: str) -> Path | None:
    place = ROOT.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere in it; of ours the file that is meant, not the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it leads"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if base.split(".")[0] in TOPS and find(inner) else base)
    return found


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in TOPS}


def room(module: str) -> str:
    """Return the room of a module of broker: `ledger` for `broker.ledger.books`, `__init__` for `broker` itself."""
    return ([*module.split("."), "__init__"])[1]


def lines() -> dict[str, int]:
    """Return each room's line in docs/architecture.md."""
    table = (ROOT / "docs/architecture.md").read_text().partition("<!-- layers -->")[2].lstrip().partition("\n\n")[0]
    found: dict[str, int] = {}
    for row in table.splitlines()[2:]:
        number, rooms = row.split("|")[1:3]
        for name in re.findall(r"`(\w+)`", rooms):
            assert name not in found, f"{name} stands in two lines of docs/architecture.md"
            found[name] = int(number)
    return found


def test_the_table_has_every_room_and_no_other():
    there = {path.stem if path.is_file() else path.name for path in (ROOT / "broker").iterdir()}
    there -= {"py", "__pycache__"}
    rooms = {name for name in there if (ROOT / "broker" / f"{name}.py").is_file() or find(f"broker.{name}")}
    assert set(lines()) == rooms


def test_imports_go_down_only():
    order = lines()
    up = []
    for path in files("broker"):
        own = room(module_of(path))
        for name in sorted(ours(path)):
            other = room(name)
            place = str(path.relative_to(ROOT))
            if (
                name.startswith("broker")
                and other != own
                and order[other] >= order[own]
                and (place, other) not in ALLOWED
            ):
                up.append(f"{place} (line {order[own]}) imports {name} (line {order[other]})")
    assert not up, "\n".join(up)


def test_broker_knows_neither_sources_nor_handlers():
    assert [path for path in files("broker") if any(not name.startswith("broker") for name in ours(path))] == []


def test_errors_imports_nothing_of_ours():
    assert ours(ROOT / "broker/errors.py") == set()


def test_sources_know_little_of_broker_and_nothing_of_each_other():
    wrong = []
    for path in files("sources"):
        place = str(path.relative_to(ROOT))
        kind = path.relative_to(ROOT / "sources").parts[0].removesuffix(".py").lstrip("_")
        for name in ours(path):
            if name.startswith("broker"):
                fine = room(name) in FOR_SOURCES or (name == "broker.ledger" and asks_for(path, name) == {"available"})
            else:
                fine = name.startswith(f"sources._{kind}") or (place, name) in ALLOWED
            if not fine:
                wrong.append(f"{place} imports {name}")
    assert not wrong, "\n".join(wrong)


def asks_for(path: Path, module: str) -> set[str]:
    """Return the names that a file imports from a module."""
    return {
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
    }


def test_handlers_know_nothing_of_broker():
    assert [path for path in files("handlers") if any(not name.startswith("handlers") for name in ours(path))] == []


def test_what_runs_in_environments_needs_the_standard_library_alone():
    needed = {(path.name, name) for path in files(INSIDE) for name in imports(path)}
    fine = {name for _, name in needed if name.startswith("broker.runtime.inside.")} | sys.stdlib_module_names
    assert [one for one in needed if not {one[1], one[1].split(".")[0]} & fine] == []


def test_every_exception_is_still_needed():
    for place, target in ALLOWED:
        names = ours(ROOT / place)
        assert any(target in {name, room(name)} for name in names), f"{place} does not import {target} any more"
