"""Celery with late acknowledgement: https://docs.celeryq.dev."""

import os

import task
from celery import Celery

app = Celery("bench", broker=f"redis://127.0.0.1:{os.environ['BENCH_PORT']}/0")
app.conf.update(
    task_ignore_result=True,
    task_default_queue="bench",
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_reject_on_worker_lost=True,
    broker_transport_options={"visibility_timeout": int(os.environ.get("BENCH_VISIBILITY", "3600"))},
)
noop = app.task(task.noop, name="noop")
nap = app.task(task.nap, name="nap")
tasks = {"noop": noop, "nap": nap}


def send(name, number, sent):
    tasks[name].delay(number, sent)


def send_many(name, numbers):
    with app.producer_or_acquire() as producer:
        for number in numbers:
            tasks[name].apply_async((number, 0), producer=producer)
