"""Where the time of one invocation goes: `python -m bench.profile` while one worker drains no-op functions.

It reads processor times of all processes, what the server spent in each command (INFO commandstats), samples of the
worker (py-spy, of the extra `bench`), and its system calls (strace, when it is there; in a run of its own, since it
slows down). `--write` puts the tables into docs/performance.md; `--lines` shows the lines in which most samples were.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import records, report
from bench.contenders import BROKER
from bench.processes import command_line, processes
from bench.run import Run
from bench.venvs import DEFAULT, Venvs

ROOT = Path(__file__).resolve().parents[1]
RATE = 500
"""Samples a second."""
FRAME = re.compile(r"(?P<function>.+) \((?P<file>[^:]+):(?P<line>\d+)\)")
WAITS = ("read_from_socket", "select (", "_socket_can_read", "can_read")
STEPS = (
    ("claim (", "claim: arguments and answer"),
    ("claim.<locals>", "claim: arguments and answer"),
    ("Outbox.tell", "settle: arguments"),
)
"""Functions of which whatever they call is counted to a step."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What one run has told, each in microseconds an invocation."""

    count: int
    rate: float
    processes: dict[str, float]
    commands: dict[str, tuple[float, float]]
    """Calls an invocation, and microseconds."""
    samples: dict[str, int]
    """Stacks of the worker's main thread (py-spy's raw format) and how often each was seen."""


def main() -> int:
    """Measure, and print or write."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="invocations")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    parser.add_argument("--lines", type=int, default=0, metavar="N", help="the N lines with most samples")
    options = parser.parse_args()
    profile = take(options.count)
    calls = system_calls(options.count // 2)
    text = tables(profile, calls)
    print(text)
    if options.lines:
        print(hot_lines(profile.samples, options.lines))
    if options.write:
        report.replace(ROOT / "docs/performance.md", "profile", text)
    return 0


def take(count: int) -> Profile:
    """Drain so many, and look on."""
    with Run(replace(BROKER, count=count), Venvs(DEFAULT, make=False)) as run, tempfile.TemporaryDirectory() as folder:
        server = run.server
        if server is None:
            raise AssertionError("it runs on a server of its own")
        run.produce("load", "noop", 1, count - 1)
        server.client.config_resetstat()
        run.start()
        run.must_wait(count // 20, 60)  # until its environments are there
        before, begun = _times(run), records.count(run.log)
        spy = _spy(_worker(run), Path(folder) / "samples")
        run.must_wait(count, 300)
        after, ended = _times(run), records.count(run.log)
        samples = _samples(spy, Path(folder) / "samples")
        statistics: Any = server.client.info("commandstats")
        rate = records.rate(records.read(run.log))
    done = ended - begun
    spent = {name: (after[name] - before.get(name, 0.0)) / done * 1e6 for name in after}
    commands = {
        name.removeprefix("cmdstat_"): (row["calls"] / count, row["usec"] / count) for name, row in statistics.items()
    }
    return Profile(count=done, rate=rate, processes=spent, commands=commands, samples=samples)


def system_calls(count: int) -> dict[str, float]:
    """Return the system calls of a worker, each an invocation; nothing without strace."""
    strace = shutil.which("strace")
    if strace is None:
        return {}
    with Run(replace(BROKER, count=count), Venvs(DEFAULT, make=False)) as run, tempfile.TemporaryDirectory() as folder:
        run.produce("load", "noop", 1, count - 1)
        run.start()
        run.must_wait(count // 20, 60)
        told = Path(folder) / "calls"
        tracer = subprocess.Popen(
            [strace, "-c", "-f", "-o", str(told), "-p", str(_worker(run))], stderr=subprocess.DEVNULL
        )
        time.sleep(0.2)
        begun = records.count(run.log)
        time.sleep(1.5)
        done = records.count(run.log) - begun
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        rows = [line.split() for line in told.read_text().splitlines()]
    counts = {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"}
    return {name: calls / max(1, done) for name, calls in sorted(counts.items(), key=lambda item: -item[1])[:8]}


def steps(samples: dict[str, int]) -> dict[str, float]:
    """Return which share of the worker's samples each step has, the largest first."""
    found: Counter[str] = Counter()
    for stack, times in samples.items():
        found[step_of(stack.split(";"))] += times
    total = sum(found.values()) or 1
    return {name: times / total for name, times in found.most_common()}


def step_of(stack: list[str]) -> str:
    """Return what a stack of frames, the innermost last, is about."""
    if any(one in stack[-1] for one in WAITS):
        return "waits for the server, or for anything at all"
    for name, step in STEPS:
        if any(frame.startswith(name) for frame in stack):
            return step
    for frame in reversed(stack):
        match = FRAME.match(frame)
        if match and match["file"].startswith("broker/") and "/cli/" not in match["file"]:
            return f"`{match['file']}`"
    return "other"


def hot_lines(samples: dict[str, int], most: int) -> str:
    """Return the lines in which most samples were, with their shares."""
    found: Counter[str] = Counter()
    for stack, times in samples.items():
        found[stack.rpartition(";")[2]] += times
    total = sum(found.values()) or 1
    return "\n".join(f"{times / total:6.1%}  {frame}" for frame, times in found.most_common(most))


def tables(profile: Profile, calls: dict[str, float]) -> str:
    """Return all of it as Markdown."""
    busiest = sorted(profile.commands.items(), key=lambda item: -item[1][1])
    worker = profile.processes.get("worker", 0.0)
    parts = [
        f"{profile.count:,} invocations at {report.number(profile.rate)}/s, under observation.",
        _table(["processor time of", "us an invocation"], profile.processes.items()),
    ]
    if profile.samples:
        shares = [
            (name, f"{share:.0%}", share * worker) for name, share in steps(profile.samples).items() if share > 0.01
        ]
        parts.append(_table(["of the worker's", "share", "us an invocation"], shares))
    rows = [(name, how_often, spent) for name, (how_often, spent) in busiest if spent > 0.05]
    parts.append(_table(["command in the server", "calls an invocation", "us an invocation"], rows))
    if calls:
        parts.append(_table(["system call of the worker", "an invocation"], calls.items()))
    return "\n\n".join(parts)


def _table(heads: list[str], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [report.row(heads), "|---" * len(heads) + "|"]
    for name, *values in rows:
        lines.append(report.row([name, *(one if isinstance(one, str) else report.number(one) for one in values)]))
    return "\n".join(lines)


def _worker(run: Run) -> int:
    return next(one.pid for one in run.crew.members() if "worker" in command_line(one.pid))


def _times(run: Run) -> dict[str, float]:
    """Return the processor seconds of the worker, all its environments with their nursery, and the server."""
    members = run.crew.members()
    worker = _worker(run)
    server = run.server.pid if run.server else 0
    return {
        "worker": sum(one.cpu for one in members if one.pid == worker),
        "environments": sum(one.cpu for one in members if one.pid != worker),
        "server": float(sum(one.cpu for one in processes() if one.pid == server)),
    }


def _spy(pid: int, path: Path) -> subprocess.Popen[bytes] | None:
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin")
    if program is None:
        print("no py-spy (pip install -e '.[bench]'): the worker's own time is not told apart", file=sys.stderr)
        return None
    command = [program, "record", "-r", str(RATE), "-f", "raw", "-o", str(path), "-d", "600", "-p", str(pid)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _samples(spy: subprocess.Popen[bytes] | None, path: Path) -> dict[str, int]:
    if spy is None:
        return {}
    spy.send_signal(signal.SIGINT)
    spy.wait()
    samples: dict[str, int] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        stack, _, times = line.rpartition(" ")
        if "_bootstrap_inner" not in stack:  # other threads wait; only the main one works
            samples[stack] = samples.get(stack, 0) + int(times)
    return samples


if __name__ == "__main__":
    sys.exit(main())
