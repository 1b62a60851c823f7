"""What the file source's tests share: sources with short waits, what they published, and one in a process of its own.

    python -m tests.file_source REDIS_URL ROOT OPTIONS [UID]

runs a source; OPTIONS are its options as JSON. With UID it becomes that user once it is connected to Redis. It prints
`ready` and what it logs, and ends on SIGTERM.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import redis

from broker.config.table import quantity
from broker.quantity import Duration
from sources.file import File
from tests.conftest import until
from tests.source_context import EVENTS, RealContext

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


def file(**options: Any) -> File:
    """Return a source that is told of changes by hints alone: its scans are far apart."""
    return File(**{"path": "inbox", "scan": Duration(3600), "settle": Duration(0.2), **options})


def polled(**options: Any) -> File:
    """Return a source that has no hints, and so scans often."""
    return file(**{"watch": "poll", "scan": Duration(0.05), **options})


def started(context: RealContext) -> None:
    """Wait until the first scan is over, from which on all comes by hints."""
    (context.root / "inbox/first").write_text("")
    until(lambda: "first" in subjects(context), what="the source runs")
    context.redis.delete(EVENTS)


def subjects(context: RealContext) -> list[str]:
    return [record["subject"] for record in context.records()]


def changes(context: RealContext) -> list[tuple[str, str]]:
    return [(record["type"].removeprefix("file."), record["subject"]) for record in context.records()]


def once(context: RealContext, *expected: tuple[str, str]) -> None:
    """Wait for these changes, and see that no others come."""
    until(lambda: context.count() >= len(expected), what=f"{expected}")
    context.stopping.wait(0.2)
    assert sorted(changes(context)) == sorted(expected)


def known(context: RealContext, path: str) -> bool:
    """Say whether the source's journal knows the path."""
    return context.redis.hexists(f"{context.prefix}files", path)


@contextmanager
def memory_folder() -> Iterator[Path]:
    """Give a folder that every user may enter, in memory where there is such a file system."""
    folder = Path(tempfile.mkdtemp(prefix="broker-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def process(url: str, root: Path, *, uid: int | str = "", **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a source in a process of its own, named `source`; kill it at the end if it still runs."""
    arguments = [url, str(root), json.dumps({"path": "inbox", "scan": 3600, "settle": 0.2, **options}), str(uid)]
    started = subprocess.Popen(
        [sys.executable, "-m", "tests.file_source", *arguments],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    with started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        try:
            yield started
        finally:
            started.kill()


def main(url: str, root: str, options: str, uid: str = "") -> None:
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    context = RealContext(redis.Redis.from_url(url), Path(root))
    context.redis.ping()
    if uid:
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    signal.signal(signal.SIGTERM, lambda *_: context.stopping.set())
    print("ready", flush=True)
    msgspec.convert(json.loads(options), File, dec_hook=quantity).run(context)


if __name__ == "__main__":
    main(*sys.argv[1:])
