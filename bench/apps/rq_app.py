"""RQ: https://python-rq.org."""

import os

import task
from redis import Redis
from rq import Queue, Retry

queue = Queue("bench", connection=Redis(host="127.0.0.1", port=int(os.environ["BENCH_PORT"])))
retry = Retry(max=3) if os.environ.get("BENCH_RETRY") else None


def send(name, number, sent):
    queue.enqueue(getattr(task, name), number, sent, retry=retry)


def send_many(name, numbers):
    function = getattr(task, name)
    for start in range(0, len(numbers), 500):
        some = numbers[start : start + 500]
        queue.enqueue_many([Queue.prepare_data(function, args=(number, 0), retry=retry) for number in some])
