"""Project: the folder with which broker itself is measured: configuration, and handlers like bench/apps/task.py."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

HANDLERS = dedent("""
    import os
    import struct
    import time
    from datetime import datetime

    _RECORD = struct.Struct("<qqIi")
    _FILE = os.open(os.environ["BENCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


    def noop(event, context):
        now = time.time_ns()
        data = event["data"]
        os.write(_FILE, _RECORD.pack(now, data["sent"], data["number"], 0))


    def nap(event, context):
        data = event["data"]
        os.write(_FILE, _RECORD.pack(time.time_ns(), data["sent"], data["number"], 0))
        time.sleep(0.005)
        os.write(_FILE, _RECORD.pack(time.time_ns(), data["sent"], data["number"], 1))


    def several(events, context):
        for event in events:
            noop(event, context)


    def file(event, context):
        now = time.time_ns()
        os.write(_FILE, _RECORD.pack(now, 0, int(event["data"]["name"].split(".")[0]), 0))


    def answer(event, context):
        return {"ok": True}


    def request(event, context):
        now = time.time_ns()
        os.write(_FILE, _RECORD.pack(now, 0, 0, 0))


    def tell(event, context):
        print("printed at", time.time_ns())


    def tick(event, context):
        now = time.time_ns()
        due = datetime.fromisoformat(event["data"]["due"])
        os.write(_FILE, _RECORD.pack(now, round(due.timestamp() * 1e9), int(event["source"][1:]), 0))
""").lstrip()


def write(
    folder: Path, *, log: Path, redis: str | None, functions: dict[str, str], queues: bool = True, rest: str = ""
) -> Path:
    """Write the project into `folder`; return the path of its configuration.

    `functions` are names with lines of their tables besides the handler, which has the function's name. With `queues`
    each has a queue source of its own name. Without `redis` it runs the embedded server. `rest` is more of the
    configuration.
    """
    (folder / "handlers.py").write_text(HANDLERS)
    parts = ["[broker]", f'redis = "{redis}"' if redis else "", ""]
    for name, lines in functions.items():
        handler = "" if "handler =" in lines else f'handler = "handlers.py:{name}"'
        parts += [f"[functions.{name}]", handler, lines, f'variables = {{ BENCH_LOG = "{log}" }}']
        if queues:
            parts += [f"[sources.{name}]", 'kind = "queue"', trigger(name, name)]
    config = folder / "config.toml"
    config.write_text("\n".join([*parts, rest]))
    return config


def trigger(source: str, function: str) -> str:
    """Return the table of a trigger without a pattern."""
    return f'[[triggers]]\nsource = "{source}"\nfunction = "{function}"\n'
