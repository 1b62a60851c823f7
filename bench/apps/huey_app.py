"""Huey: https://huey.readthedocs.io."""

import os

import task
from huey import RedisHuey

huey = RedisHuey("bench", host="127.0.0.1", port=int(os.environ["BENCH_PORT"]))
noop = huey.task(name="noop")(task.noop)
nap = huey.task(name="nap")(task.nap)
tasks = {"noop": noop, "nap": nap}


def send(name, number, sent):
    tasks[name](number, sent)


def send_many(name, numbers):
    for number in numbers:
        tasks[name](number, 0)
