"""SAQ: https://saq-py.readthedocs.io."""

import asyncio
import os

import task
from saq import Queue

queue = Queue.from_url(f"redis://127.0.0.1:{os.environ['BENCH_PORT']}", name="bench")
options = {"retries": 3, "timeout": 5} if os.environ.get("BENCH_RETRY") else {}


async def noop(ctx, *, number, sent):
    del ctx
    await task.async_noop(number, sent)


async def nap(ctx, *, number, sent):
    del ctx
    await task.async_nap(number, sent)


settings = {"queue": queue, "functions": [noop, nap], "concurrency": 10}
if os.environ.get("BENCH_RETRY"):
    settings["timers"] = {"sweep": 5}


async def send(name, number, sent):
    await queue.enqueue(name, number=number, sent=sent, **options)


async def send_many(name, numbers):
    for start in range(0, len(numbers), 50):
        await asyncio.gather(*(send(name, number, 0) for number in numbers[start : start + 50]))
