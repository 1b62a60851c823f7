"""Node.js: `handlers/hello.mjs:handler`, or `index.handler` as on AWS Lambda; nodejs.mjs runs in the environment."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from broker.names import nearest
from broker.quantity import Size
from broker.runtimes import Speech, not_found

SPEECH: Final[Speech] = "frames"
LANGUAGE: Final = "nodejs"
LEAST_MEMORY: Final = Size(64 << 20)

BOOTSTRAP = Path(__file__).with_suffix(".mjs")
EXTENSIONS = (".js", ".mjs", ".cjs")

_BESIDE_THE_HEAP = 32 << 20
"""Bytes that an idle node occupies besides its heap, with some left out so that our limit is reached before V8's."""

_WITH_FILE = re.compile(r"([^:]+\.[mc]?js):([\w$]+(?:\.[\w$]+)*)")
_WITHOUT = re.compile(r"((?:[^:]*/)?[^:./]+)\.([\w$]+(?:\.[\w$]+)*)")


def problem(handler: str, root: Path) -> str:
    """Return what is wrong with a handler's name; or nothing."""
    if match := _WITH_FILE.fullmatch(handler):
        place, candidates = match[1], [root / match[1]]
    elif match := _WITHOUT.fullmatch(handler):
        place, candidates = match[1], [root / f"{match[1]}{ending}" for ending in EXTENSIONS]
    else:
        forms = '"handlers/thumbnail.mjs:handler" or "index.handler"'
        return f"expected {forms}, got {json.dumps(handler, ensure_ascii=False)}"
    if any(candidate.is_file() for candidate in candidates):
        return ""
    beside = [str(Path(place).parent / each.name) for each in candidates[0].parent.glob("*.*js")]
    hint = nearest(place, beside)
    return f"there is no file {place} in {root}" + (f"; {hint}" if hint else "")


def argv(handler: str, root: Path, memory: int) -> list[str]:
    """Return node with the bootstrap; V8 is told to collect before the limit is reached."""
    del handler, root
    heap = max(memory - _BESIDE_THE_HEAP, memory // 2) >> 20
    return ["node", f"--max-old-space-size={heap}", str(BOOTSTRAP)]


def inner(handler: str) -> str:
    """Return what goes into _HANDLER."""
    return handler


def missing(handler: str, root: Path, path: str) -> str:
    """Return that node is not found, if so."""
    del handler, root
    return not_found("node", path, "install Node.js 18 or newer, such as `apt install nodejs`")
