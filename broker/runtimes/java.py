"""Java: `app.jar:com.example.App::handle`, a folder of classes or a source file instead, or `com.example.App::handle`.

What runs in the environment is in java_bootstrap/: its source, and bootstrap.jar, which is made of it by
`python -m tests.java_bootstrap`, so that a machine needs a compiler only for handlers that are source files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from broker.names import nearest
from broker.quantity import Size
from broker.runtimes import Speech, not_found

SPEECH: Final[Speech] = "frames"
LANGUAGE: Final = "java"
LEAST_MEMORY: Final = Size(96 << 20)

BOOTSTRAP = Path(__file__).parent / "java_bootstrap" / "bootstrap.jar"

_BESIDE_THE_HEAP = 64 << 20
"""Bytes that a Java machine occupies besides its heap."""

_OPTIONS = (
    "-XX:TieredStopAtLevel=1",  # as AWS Lambda: most attempts are over before better code would pay
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Xshare:auto",
    "-Dfile.encoding=UTF-8",
    "-Dsun.jnu.encoding=UTF-8",
    "-Djava.io.tmpdir={TMPDIR}",  # Files.createTempFile reads it as the machine starts, never again
    "--add-opens=java.base/java.io=ALL-UNNAMED",  # a descriptor can be had no other way
)

_CLASS = r"[A-Za-z_$][\w$]*(?:\.[A-Za-z_$][\w$]*)*"
_HANDLER = re.compile(rf"(?:([^:]+):)?{_CLASS}(?:::[A-Za-z_$][\w$]*)?")


def problem(handler: str, root: Path) -> str:
    """Return what is wrong with a handler's name; or nothing."""
    match = _HANDLER.fullmatch(handler)
    if not match:
        forms = '"Hello.java:Hello::handle", "app.jar:com.example.App::handle" or "com.example.App::handle"'
        return f"expected {forms}, got {json.dumps(handler, ensure_ascii=False)}"
    place = match[1]
    if place is None or (root / place).exists():
        return ""
    beside = [str(Path(place).parent / each.name) for each in (root / place).parent.glob("*")]
    hint = nearest(place, beside)
    return f"there is no file {place} in {root}" + (f"; {hint}" if hint else "")


def argv(handler: str, root: Path, memory: int) -> list[str]:
    """Return java with the bootstrap; the heap leaves room for the rest of the machine."""
    del handler, root
    heap = max(memory - _BESIDE_THE_HEAP, memory // 2) >> 20
    return ["java", *_OPTIONS, f"-Xmx{heap}m", "-cp", str(BOOTSTRAP), "broker.Bootstrap"]


def inner(handler: str) -> str:
    """Return what goes into _HANDLER: without the place, as on AWS Lambda."""
    place = handler.partition("::")[0].rpartition(":")[0]
    return handler.removeprefix(f"{place}:")


def missing(handler: str, root: Path, path: str) -> str:
    """Return that java is not found, or javac for a source file."""
    del root
    program = "javac" if handler.partition(":")[0].endswith(".java") else "java"
    return not_found(program, path, "install a JDK 17 or newer, such as `apt install default-jdk-headless`")
