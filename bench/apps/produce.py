"""The producing side of one contender, in a process of its own.

    produce.py APP load FUNCTION SINGLE MANY     enqueue one after another, then the rest as the library does it fastest
    produce.py APP pace FUNCTION COUNT SECONDS   enqueue one every so many seconds, after 20 that warm it up

`load` prints a JSON object with both rates.
"""

import asyncio
import importlib
import inspect
import json
import sys
import time

WARM_UP = 20
SETTLE = 1.0


def load(app, name, single, many):
    app.send(name, 0, 0)  # connects
    first = time.perf_counter()
    for number in range(1, single):
        app.send(name, number, 0)
    second = time.perf_counter()
    app.send_many(name, range(single, single + many))
    third = time.perf_counter()
    return {"single": (single - 1) / (second - first), "many": many / (third - second)}


async def load_async(app, name, single, many):
    await app.send(name, 0, 0)
    first = time.perf_counter()
    for number in range(1, single):
        await app.send(name, number, 0)
    second = time.perf_counter()
    await app.send_many(name, range(single, single + many))
    third = time.perf_counter()
    return {"single": (single - 1) / (second - first), "many": many / (third - second)}


def pace(app, name, count, seconds):
    for number in range(WARM_UP):
        app.send(name, number, 0)
        time.sleep(seconds)
    time.sleep(SETTLE)
    due = time.perf_counter()
    for number in range(WARM_UP, WARM_UP + count):
        app.send(name, number, time.time_ns())
        due += seconds
        time.sleep(max(0.0, due - time.perf_counter()))
    return {}


async def pace_async(app, name, count, seconds):
    for number in range(WARM_UP):
        await app.send(name, number, 0)
        await asyncio.sleep(seconds)
    await asyncio.sleep(SETTLE)
    due = time.perf_counter()
    for number in range(WARM_UP, WARM_UP + count):
        await app.send(name, number, time.time_ns())
        due += seconds
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    return {}


def main():
    app = importlib.import_module(sys.argv[1])
    mode, name, count, other = sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
    if mode == "load":
        other = int(other)
    if inspect.iscoroutinefunction(app.send):
        answer = asyncio.run((load_async if mode == "load" else pace_async)(app, name, count, other))
    else:
        answer = (load if mode == "load" else pace)(app, name, count, other)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
