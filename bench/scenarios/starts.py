"""Starts: from the call that publishes to the first instruction, when an environment must be started, and when not."""

from __future__ import annotations

import shutil
import time
from functools import partial

from bench import records
from bench.case import Case, Outcome, Room
from bench.figures import Figure, percentile
from bench.venvs import Missing
from bench.whole import Whole
from broker.config import load
from broker.errors import ConfigError
from broker.event import Event
from broker.ledger import Ledger
from broker.publisher import Publisher
from broker.store import connection

NAME = "starts"
TITLE = "Starts: publish to first instruction, one at a time"
NODE = """
import { openSync, writeSync } from "node:fs";
const file = openSync(process.env.BENCH_LOG, "a");
export const handler = async (event) => {
  const now = BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;
  const record = Buffer.alloc(24);
  record.writeBigInt64LE(now, 0);
  record.writeBigInt64LE(BigInt(event.data.sent), 8);
  record.writeUInt32LE(event.data.number, 16);
  writeSync(file, record);
};
"""
RUNTIMES = {"python": 'handler = "handlers.py:noop"', "nodejs": 'handler = "handler.mjs:handler"\nruntime = "nodejs"'}
WARM = 20


def cases(room: Room) -> list[Case]:
    """Return a case for each runtime."""
    return [Case(scenario=NAME, who=runtime, measure=partial(starts, room, runtime)) for runtime in RUNTIMES]


def starts(room: Room, runtime: str) -> Outcome:
    """Measure once: as many functions as there are to be cold starts, then the last one again and again."""
    if runtime == "nodejs" and shutil.which("node") is None:
        raise Missing("there is no `node` on the PATH")
    count = room.scale(30, 8)
    functions = {f"f{number}": RUNTIMES[runtime] for number in range(count)}
    with Whole(functions=functions, queues=True, shipped=False) as whole:
        (whole.folder / "handler.mjs").write_text(NODE)
        text = whole.config.read_text().replace("[broker]", f"[broker]\nenvironments = {count + 4}", 1)
        whole.config.write_text(text)
        try:
            config = load(whole.config)
        except ConfigError as error:
            raise Missing(f"this version cannot run it: {str(error).splitlines()[0]}") from error
        publisher = Publisher(config, Ledger(connection.connect(config)))
        whole.start("worker")
        whole.until(lambda: "nursery" in whole.parts(), within=30, what="the worker and its nursery are there")
        time.sleep(0.5)  # and have nothing more to do
        for number in range(count):
            _send(publisher, f"f{number}", number)
            whole.until_ran(number + 1, within=30)
            time.sleep(0.05)
        for number in range(count, count + WARM):
            _send(publisher, f"f{count - 1}", number)
            whole.until_ran(number + 1, within=30)
            time.sleep(0.02)
        took = {one.number: (one.at - one.sent) / 1e6 for one in records.read(whole.log)}
    cold = [took[number] for number in range(count)]
    warm = [took[number] for number in range(count, count + WARM)]
    values = [
        ("cold p50", percentile(cold, 0.5)),
        ("cold worst", max(cold)),
        ("warm p50", percentile(warm, 0.5)),
    ]
    return [Figure(scenario=NAME, who=runtime, what=what, value=value, unit="ms") for what, value in values]


def _send(publisher: Publisher, function: str, number: int) -> None:
    data = {"number": number, "sent": time.time_ns()}
    publisher.publish([Event(id=str(number), source=function, type="bench", time="2026-11-23T00:00:00Z", data=data)])
