"""Packing: from a file, a folder or a zip to the zip that is deployed, and a guess how it is run."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from broker import archive, runtimes
from broker.deployed.record import LARGEST, LARGEST_UNPACKED
from broker.errors import DeployFailed
from broker.names import nearest

IGNORED = (
    ".git/",
    ".hg/",
    ".svn/",
    ".broker/",
    ".venv/",
    "venv/",
    "__pycache__/",
    ".pytest_cache/",
    ".mypy_cache/",
    ".ruff_cache/",
    ".idea/",
    ".vscode/",
    "*.pyc",
    ".env",
    ".DS_Store",
    ".brokerignore",
)
"""What is never packed."""

IGNORE_FILE = ".brokerignore"
"""The file that names what else is not: a pattern a line, as in .gitignore, without `!`."""

HANDLERS = ("handler", "lambda_handler")
"""What a handler is usually called."""

_MAINS = ("bootstrap", "index.mjs", "index.js", "index.cjs", "handler.py", "lambda_function.py", "main.py", "app.py")
_RUNTIMES = {".py": "python", ".js": "nodejs", ".mjs": "nodejs", ".cjs": "nodejs", ".java": "java", ".sh": "exec"}
_EXPORTS = re.compile(r"\bexport\b[^;\n]*?\b(?:function\*?|const|let|var)\s+(\w+)|\bexports\.(\w+)\s*=")
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What is deployed."""

    zip: Path
    digest: str
    folder: Path
    """Where what is in the zip can be looked at."""
    main: str
    """The file that is probably run; empty when it cannot be told."""


def pack(path: Path, work: Path) -> Packed:
    """Pack a file, a folder or a zip; `work` is an empty folder for that. Raises DeployFailed, BadArchive, OSError."""
    if path.is_dir():
        folder, files = path, list(_chosen(path))
        main = _main_of({file.name for file in files if file.parent == path})
    elif path.suffix == ".zip":
        folder = work / "unpacked"
        folder.mkdir()
        archive.unpack(path, folder, most=LARGEST_UNPACKED)
        files = list(archive.walk(folder))
        main = _main_of({file.name for file in files if file.parent == folder})
    elif path.is_file():
        folder, main = work / "single", path.name
        folder.mkdir()
        shutil.copy(path, folder / path.name)
        files = [folder / path.name]
    else:
        raise DeployFailed(f"there is no file or folder {path}")
    if not files:
        raise DeployFailed(f"{path} holds nothing to deploy")
    unpacked = sum(file.lstat().st_size for file in files)
    if unpacked > LARGEST_UNPACKED:
        raise DeployFailed(f"{path} has {_mb(unpacked)}; at most {_mb(LARGEST_UNPACKED)} can be deployed")
    target = work / "code.zip"
    archive.pack(folder, files, target)
    if (size := target.stat().st_size) > LARGEST:
        raise DeployFailed(
            f"{path} has {_mb(size)} as a zip; at most {_mb(LARGEST)} can be deployed (dependencies belong in a layer)"
        )
    return Packed(zip=target, digest=archive.hash_file(target), folder=folder, main=main)


def name_of(path: Path) -> str:
    """Return the name that a function made of this file or folder gets."""
    stem = path.resolve().name if path.is_dir() else path.name.partition(".")[0]
    return _NO_NAME.sub("-", stem).strip("-_") or "function"


def guess(packed: Packed, runtime: str | None, handler: str | None) -> tuple[str, str]:
    """Return runtime and handler: those that are given, the others by the files. Raises DeployFailed."""
    if handler and not runtime:
        place = handler.partition(":")[0]
        runtime = _RUNTIMES.get(Path(place).suffix) or _runtime_of(packed, packed.main) or "python"
    if not runtime:
        runtime = _runtime_of(packed, packed.main)
    if runtime is None:
        known = ", ".join(sorted(runtimes.shipped()))
        what = f"cannot tell how {packed.main} is run" if packed.main else "cannot tell which file is the function's"
        raise DeployFailed(f"{what}: say --handler, and --runtime if it is not plain ({known})")
    if runtime not in runtimes.shipped():
        raise DeployFailed(f"this broker has no runtime {runtime!r}; {_known(runtime)}")
    if not handler:
        handler = _handler_of(packed, runtime)
    if problem := runtimes.find(runtime).problem(handler, packed.folder):
        problem = problem.replace(f" in {packed.folder}", " in what is deployed")
        raise DeployFailed(problem)
    if runtime == "python":
        _check_python(packed, handler)
    return runtime, handler


def _chosen(folder: Path) -> Iterator[Path]:
    ignore = folder / IGNORE_FILE
    lines = ignore.read_text().splitlines() if ignore.is_file() else []
    patterns = [*IGNORED, *(line.strip() for line in lines if line.strip() and not line.startswith("#"))]
    for file in archive.walk(folder):
        place = file.relative_to(folder)
        above = [*reversed(place.parents)][1:]
        if not any(
            _matches(pattern, each, folder=each is not place) for each in (*above, place) for pattern in patterns
        ):
            yield file


def _matches(pattern: str, place: Path, *, folder: bool) -> bool:
    if pattern.endswith("/"):
        if not folder:
            return False
        pattern = pattern.rstrip("/")
    if "/" in pattern:
        return fnmatchcase(place.as_posix(), pattern.lstrip("/"))
    return fnmatchcase(place.name, pattern)


def _main_of(names: set[str]) -> str:
    for name in _MAINS:
        if name in names:
            return name
    code = sorted(name for name in names if Path(name).suffix in _RUNTIMES)
    return code[0] if len(code) == 1 else ""


def _runtime_of(packed: Packed, main: str) -> str | None:
    if not main:
        return None
    if main == "bootstrap":
        return "provided"
    if found := _RUNTIMES.get(Path(main).suffix):
        return found
    return "exec" if (packed.folder / main).stat().st_mode & 0o100 else None


def _handler_of(packed: Packed, runtime: str) -> str:
    main = packed.main
    if not main:
        raise DeployFailed("cannot tell which file is the function's: say --handler FILE:NAME")
    if runtime == "exec":
        return f"./{main}"
    if runtime == "provided":
        return main
    if runtime not in {"python", "nodejs"}:
        raise DeployFailed(f"say --handler; {main} alone does not tell what is called")
    names = _defined(packed, main, runtime)
    for name in HANDLERS:
        if name in names:
            return f"{main}:{name}"
    known = f"it defines {', '.join(names[:8])}" if names else "it defines nothing of that kind"
    raise DeployFailed(f"{main} has no function `handler`; {known}; say --handler {main}:NAME")


def _defined(packed: Packed, main: str, runtime: str) -> list[str]:
    text = (packed.folder / main).read_text(encoding="utf-8-sig", errors="replace")
    if runtime == "nodejs":
        found = [first or second for first, second in _EXPORTS.findall(text)]
        return found or [name for name in HANDLERS if re.search(rf"\b{name}\b", text)]
    names = []
    for node in _parse(text, main).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
    return [name for name in names if not name.startswith("_")]


def _check_python(packed: Packed, handler: str) -> None:
    """Look whether the handler's file, if it is one, is Python and has the name."""
    place, _, name = handler.partition(":")
    if not place.endswith(".py"):
        return
    names = _defined(packed, place, "python")
    if (first := name.partition(".")[0]) not in names and "*" not in names:
        hint = nearest(first, names) or (f"it defines {', '.join(names[:8])}" if names else "it defines nothing")
        raise DeployFailed(f"{place} has no {first!r}; {hint}")


def _parse(text: str, place: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise DeployFailed(f"{place}, line {error.lineno}: {error.msg}") from error


def _known(runtime: str) -> str:
    return nearest(runtime, runtimes.shipped()) or f"known: {', '.join(sorted(runtimes.shipped()))}"


def _mb(size: int) -> str:
    return f"{size / (1 << 20):.1f}MB"
