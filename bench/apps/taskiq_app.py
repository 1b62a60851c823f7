"""taskiq with its list broker: https://taskiq-python.github.io."""

import asyncio
import os

import task
from taskiq_redis import ListQueueBroker

broker = ListQueueBroker(f"redis://127.0.0.1:{os.environ['BENCH_PORT']}/0", queue_name="bench")


@broker.task(task_name="noop")
async def noop(number: int, sent: int) -> None:
    await task.async_noop(number, sent)


@broker.task(task_name="nap")
async def nap(number: int, sent: int) -> None:
    await task.async_nap(number, sent)


tasks = {"noop": noop, "nap": nap}
started = []


async def send(name, number, sent):
    if not started:
        started.append(True)
        await broker.startup()
    await tasks[name].kiq(number, sent)


async def send_many(name, numbers):
    await send(name, numbers[0], 0)
    for start in range(1, len(numbers), 50):
        await asyncio.gather(*(send(name, number, 0) for number in numbers[start : start + 50]))
