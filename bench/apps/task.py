"""What the task of every contender does: append one record of 24 bytes to a file.

One open(2) a process and one write(2) a record for all of them, in the file that BENCH_LOG names. The record (see
bench/records.py) survives the death of the process that wrote it.
"""

import asyncio
import os
import struct
import time

_RECORD = struct.Struct("<qqIi")
_SLEEP = 0.005
_opened = {}


def record(number, sent, end=0):
    now = time.time_ns()
    pid = os.getpid()
    if pid not in _opened:  # a descriptor of one's own after a fork
        _opened[pid] = os.open(os.environ["BENCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(_opened[pid], _RECORD.pack(now, sent, number, end))


def noop(number, sent):
    record(number, sent)


def nap(number, sent):
    record(number, sent)
    time.sleep(_SLEEP)
    record(number, sent, 1)


async def async_noop(number, sent):
    record(number, sent)


async def async_nap(number, sent):
    record(number, sent)
    await asyncio.sleep(_SLEEP)
    record(number, sent, 1)
