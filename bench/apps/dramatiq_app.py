"""Dramatiq: https://dramatiq.io."""

import os

import dramatiq
import task
from dramatiq.brokers.redis import RedisBroker

options = {}
if os.environ.get("BENCH_HEARTBEAT"):
    options = {"heartbeat_timeout": int(os.environ["BENCH_HEARTBEAT"]), "maintenance_chance": 100_000}
dramatiq.set_broker(RedisBroker(url=f"redis://127.0.0.1:{os.environ['BENCH_PORT']}/0", **options))
noop = dramatiq.actor(task.noop, actor_name="noop")
nap = dramatiq.actor(task.nap, actor_name="nap")
actors = {"noop": noop, "nap": nap}


def send(name, number, sent):
    actors[name].send(number, sent)


def send_many(name, numbers):
    for number in numbers:
        actors[name].send(number, 0)
