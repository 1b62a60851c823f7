"""HTTP: requests accepted a second, and requests answered by a function, over kept connections.

The load comes from bench/http_load.py, a process of its own that shares the machine, for all of them.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from bench import records
from bench.case import Case, Outcome, Room
from bench.contenders import Contender
from bench.figures import Figure
from bench.processes import Crew
from bench.run import Run
from bench.server import free_port
from bench.venvs import Missing
from bench.whole import Whole

NAME = "http"
TITLE = "HTTP: requests answered, by one process, over kept connections"
ROOT = Path(__file__).resolve().parents[2]
SOURCES = """
[sources.hook]
kind = "http"
route = "POST /hook"
listen = "127.0.0.1:{port}"
[[triggers]]
source = "hook"
function = "request"

[sources.ask]
kind = "http"
route = "POST /ask"
listen = "127.0.0.1:{port}"
reply = "wait"
[[triggers]]
source = "ask"
function = "answer"
"""
ACCEPT = "broker accepts: 202 once it is in Redis"
BUSY = "broker accepts, and a worker runs what it accepts"
WAIT = "broker waits for the function's answer"
UVICORN = "uvicorn with one XADD a request"
WEBHOOK = "webhook, a shell command a request"

UVICORN_PEER = Contender(
    name=UVICORN,
    app="uvicorn_app",
    venv="uvicorn",
    requirements=("uvicorn[standard]", "redis", "hiredis"),
    commands=("{bin}/uvicorn uvicorn_app:app --host 127.0.0.1 --port 0 --log-level warning --no-access-log",),
    count=0,
)


def cases(room: Room) -> list[Case]:
    """Return a case for each server and way; in a hurry for ours alone."""
    seconds = 5.0 if not room.quick else 1.0
    measures = {
        f"{ACCEPT}, 64 connections": partial(_ours, ("host",), "/hook", 64, seconds),
        f"{BUSY}, 64 connections": partial(_ours, ("host", "worker"), "/hook", 64, seconds),
        f"{WAIT}, 1 connection": partial(_ours, ("host", "worker"), "/ask", 1, seconds),
        f"{WAIT}, 64 connections": partial(_ours, ("host", "worker"), "/ask", 64, seconds),
    }
    if not room.quick:
        measures[f"{UVICORN}, 64 connections"] = partial(_uvicorn, room, 64, seconds)
        measures[f"{WEBHOOK}, 64 connections"] = partial(_webhook, 64, seconds)
    return [Case(scenario=NAME, who=who, measure=partial(measure, who)) for who, measure in measures.items()]


def _ours(parts: tuple[str, ...], path: str, connections: int, seconds: float, who: str) -> Outcome:
    port = free_port()
    rest = SOURCES.replace("{port}", str(port))
    with Whole(functions={"request": "", "answer": ""}, rest=rest, shipped=False) as whole:
        whole.start(*parts)
        whole.until(lambda: _listens(port), within=30, what="the HTTP source listens")
        if "worker" in parts:
            _load(port, path, 1, 0.3)  # until everything is warm
        before = _accepted(whole)
        answer = _load(port, path, connections, seconds)
        figures = _figures(who, answer)
        if path == "/hook" and "worker" in parts:
            accepted = _accepted(whole)
            whole.until_ran(accepted, within=60)
            share = (len(records.read(whole.log)) - before) / answer["good"]
            figures.append(Figure(scenario=NAME, who=who, what="ran", value=share * 100, unit="%"))
    return figures


def _accepted(whole: Whole) -> int:
    books = whole.server.client.hget("broker:books:request", "accepted") if whole.server else None
    return int(books or 0)


def _uvicorn(room: Room, connections: int, seconds: float, who: str) -> Outcome:
    port = free_port()
    with Run(UVICORN_PEER, room.venvs) as run:
        run.start_command(UVICORN_PEER.commands[0].replace("--port 0", f"--port {port}"))
        _await(run.crew, port)
        return _figures(who, _load(port, "/hook", connections, seconds))


def _webhook(connections: int, seconds: float, who: str) -> Outcome:
    program = shutil.which("webhook")
    if program is None:
        raise Missing("there is no `webhook` (github.com/adnanh/webhook) on the PATH")
    port = free_port()
    with Whole(functions={}, shipped=False) as place:
        script = place.folder / "append.sh"
        script.write_text(f"#!/bin/sh\nprintf 012345678901234567890123 >> {place.log}\n")
        script.chmod(0o755)
        hooks = place.folder / "hooks.json"
        hooks.write_text(json.dumps([{"id": "hook", "execute-command": str(script)}]))
        place.crew.start([program, "-hooks", str(hooks), "-ip", "127.0.0.1", "-port", str(port)], folder=place.folder)
        _await(place.crew, port)
        answer = _load(port, "/hooks/hook", connections, seconds)
        _until_no_more(place.log)  # those that will never run are what is measured
        ran = records.count(place.log) / answer["good"] * 100
        return [*_figures(who, answer), Figure(scenario=NAME, who=who, what="ran", value=ran, unit="%")]


def _load(port: int, path: str, connections: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.http_load", str(port), path, str(connections), str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 90, check=False)
    if done.returncode:
        raise RuntimeError(f"the load failed: {done.stderr[-500:]}")
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def _figures(who: str, answer: dict[str, float]) -> Outcome:
    values = [("answered", "rate", "/s"), ("p50", "p50", "ms"), ("p99", "p99", "ms"), ("refused", "refused", "")]
    return [Figure(scenario=NAME, who=who, what=what, value=answer[key], unit=unit) for what, key, unit in values]


def _await(crew: Crew, port: int) -> None:
    end = time.monotonic() + 30
    while not _listens(port):
        if time.monotonic() > end or not crew.alive():
            raise RuntimeError(f"it does not listen: {crew.said()}")
        time.sleep(0.02)


def _until_no_more(log: Path) -> None:
    """Wait until no record has come for a second."""
    known, since = records.count(log), time.monotonic()
    while time.monotonic() < since + 1:
        time.sleep(0.02)
        if (now := records.count(log)) != known:
            known, since = now, time.monotonic()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
