"""Loading: from the handler's name in config.toml to the function itself, each way to fail told apart.

It runs inside the environment, so it needs nothing beyond the standard library.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_VARARGS = 0x04  # CO_VARARGS: the function has *args; `inspect` would cost a megabyte

_ALONE = "handler_"
"""How the name of a handler's module begins when its place gives it none."""


class HandlerMissing(Exception):
    """The file, module or name of the handler is not there."""


class InitFailed(Exception):
    """The handler is there and cannot be used; the cause is what importing it raised, if it did."""


def load(handler: str, root: str) -> Callable[..., Any]:
    """Return the handler that `handlers/x.py:name`, `package.module:name` or `package.module.name` stands for.

    Raises HandlerMissing or InitFailed with one sentence for people, or MemoryError.
    """
    folder = Path(root)
    place, _, name = handler.rpartition(":" if ":" in handler else ".")
    if not place or not name:
        raise HandlerMissing(f"expected file.py:name or package.module:name, got {handler!r}")
    if place.endswith(".py") and ":" in handler:
        path = (folder / place).resolve()
        if not path.is_file():
            raise HandlerMissing(f"there is no file {place}")
        module = _guarded(lambda: _import_file(path, folder), place, folder)
    else:
        path = folder.joinpath(*place.split(".")).with_suffix(".py")
        if path.is_file():
            module = _guarded(lambda: _import_file(path, folder), place, folder)
        else:
            module = _guarded(lambda: importlib.import_module(place), place, folder)
    return _checked(_pick(module, name, place), name, place)


def _guarded(run: Callable[[], ModuleType], place: str, root: Path) -> ModuleType:
    """Import; turn what the user's code raises into one of our two errors."""
    try:
        return run()
    except MemoryError:
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{place}.".startswith(f"{error.name}."):
            raise HandlerMissing(f"there is no module {error.name}") from None
        raise InitFailed(_explain(error, place, root)) from error
    except BaseException as error:  # the border to the user's code, which may even call sys.exit
        raise InitFailed(_explain(error, place, root)) from error


def _import_file(path: Path, root: Path) -> ModuleType:
    """Import a file under the name that it has in the project, so that its neighbours can be imported too.

    A folder of the project wins over an installed package of the same name. A file that would hide a module of the
    standard library, or that no name leads to, gets a name of its own.
    """
    parts = path.relative_to(root).with_suffix("").parts if path.is_relative_to(root) else (path.stem,)
    name = ".".join(parts)
    if parts[0] not in sys.stdlib_module_names and not any("." in part for part in parts):
        for depth in range(1, len(parts)):
            _know_package(".".join(parts[:depth]), root.joinpath(*parts[:depth]))
        if importlib.util.find_spec(name) and _file_of(importlib.import_module(name)) == path:
            return sys.modules[name]
    return _import_as(f"{_ALONE}{path.stem}", path)


def _know_package(name: str, folder: Path) -> None:
    if name in sys.modules:
        return
    init = folder / "__init__.py"
    if init.is_file():
        _import_as(name, init, search=[str(folder)])
    else:
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


def _import_as(name: str, path: Path, search: list[str] | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _file_of(module: ModuleType) -> Path | None:
    return Path(module.__file__).resolve() if module.__file__ else None


def _pick(module: ModuleType, name: str, place: str) -> Any:
    value: Any = module
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            own = [
                key
                for key, each in vars(module).items()
                if callable(each) and getattr(each, "__module__", None) == module.__name__ and not key.startswith("_")
            ]
            known = f"; it defines {', '.join(own[:8])}" if own else ""
            raise HandlerMissing(f"{place} has no {name!r}{known}") from None
    return value


def _checked(handler: Any, name: str, place: str) -> Callable[..., Any]:
    """Return the handler if it can be called with event and context, as far as that can be told."""
    if not callable(handler):
        raise InitFailed(f"{name!r} in {place} cannot be called: it is of type {type(handler).__name__}")
    code = getattr(handler, "__code__", None)
    if isinstance(code, CodeType):
        bound = int(hasattr(handler, "__self__"))
        most = code.co_argcount - bound
        least = most - len(handler.__defaults__ or ())
        keywords = code.co_kwonlyargcount - len(handler.__kwdefaults__ or ())
        if least > 2 or keywords or (most < 2 and not code.co_flags & _VARARGS):
            takes = ", ".join(code.co_varnames[bound : code.co_argcount + code.co_kwonlyargcount])
            raise InitFailed(f"a handler takes (event, context), but {name!r} in {place} takes ({takes})")
    return handler  # type: ignore[no-any-return]


def _explain(error: BaseException, place: str, root: Path) -> str:
    """Return one line: what importing raised, and where in the user's files."""
    if isinstance(error, SyntaxError):
        where = f"{_relative(error.filename or place, root)}, line {error.lineno}"
        return f"{type(error).__name__} in {where}: {error.msg}"
    where = place
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(str(root)):
            where = f"{_relative(frame.filename, root)}, line {frame.lineno}"
    if isinstance(error, SystemExit):
        return f"importing {place} called exit({error.code}) in {where}"
    return f"importing {place} failed: {type(error).__name__}: {error} ({where})"


def _relative(name: str, root: Path) -> str:
    path = Path(name)
    return str(path.relative_to(root)) if path.is_relative_to(root) else name


class LoadedFiles:
    """Which files of the project are imported, so that the worker notices when one of them changes."""

    def __init__(self, root: str, layers: Sequence[str] = ()) -> None:
        """Take the project's folder, and its layers', which never change. What is imported by now is not the user's."""
        self._root = Path(root)
        self._layers = layers
        self._seen = set(sys.modules)
        self._looked_ns = time.time_ns()

    def grown(self) -> bool:
        """Return whether something has been imported since the last look."""
        return len(sys.modules) != len(self._seen)

    def new(self) -> list[tuple[str, int, int]]:
        """Return path, modification time (ns) and size of each file of the project imported since the last look."""
        now = time.time_ns()
        names = set(sys.modules)
        found = []
        for name in names - self._seen:
            file = getattr(sys.modules.get(name), "__file__", None)
            if not isinstance(file, str) or not (name.startswith(_ALONE) or self._is_theirs(Path(file))):
                continue
            try:
                stat = Path(file).stat()
            except OSError:  # it is gone already, which the worker will notice by itself
                found.append((file, 0, 0))
                continue
            # Written while it was imported: nobody knows which of both was read, so it counts as changed.
            raced = self._looked_ns < stat.st_mtime_ns <= now
            found.append((file, 0 if raced else stat.st_mtime_ns, stat.st_size))
        self._seen, self._looked_ns = names, now
        return found

    def _is_theirs(self, path: Path) -> bool:
        if not path.is_relative_to(self._root) or "site-packages" in path.parts:
            return False
        return not any(path.is_relative_to(layer) for layer in self._layers)
