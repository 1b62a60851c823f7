"""Plain jobs of RQ: a project whose workers run them, RQ's own or ours, and what the jobs do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

from rq import Queue, Worker

from tests.conftest import PATIENCE, until
from tests.integration.command import environment

if TYPE_CHECKING:
    from pathlib import Path

    import redis

MODULE = '''
"""Jobs, as a user of RQ writes them."""
import os, signal, sys, time
from rq import Retry, get_current_job

def add(a, b):
    return a + b

def fail():
    raise ValueError("it is broken")

def sleep(seconds):
    time.sleep(seconds)
    return "slept"

def hold(key="held"):
    """Say that it runs, then wait until told to go on."""
    job = get_current_job()
    job.connection.rpush(key, os.getpid())
    job.connection.blpop(f"{key}:go", 30)
    return "went on"

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def note(key, value):
    get_current_job().connection.rpush(key, value)

def who():
    job = get_current_job()
    job.meta["by"] = job.worker_name
    job.save_meta()
    return os.getcwd(), sys.path[0]

def is_readable():
    """Return whether other processes of the same user may read this one's memory (PR_GET_DUMPABLE)."""
    import ctypes
    return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)

def again(times):
    """Return a Retry until it was run so often."""
    job = get_current_job()
    if job.connection.incr("again") <= times:
        return Retry(max=5)
    return "at last"

def never():
    get_current_job().connection.incr("never")
    return Retry(max=2)

def flaky():
    if get_current_job().connection.incr("flaky") < 3:
        raise ValueError("not yet")
    return "at last"

def on_success(job, connection, result):
    connection.rpush("called", f"success {job.id} {result}")

def on_failure(job, connection, kind, value, trace):
    connection.rpush("called", f"failure {job.id} {kind.__name__}")

def on_stopped(job, connection):
    connection.rpush("called", f"stopped {job.id}")
'''


class Plain:
    """A folder with a module of jobs, and workers for the queues `mail` and `later`; `kind` is `rq` or `ours`."""

    def __init__(self, root: Path, client: redis.Redis, url: str, kind: str, serializer: str = "pickle") -> None:
        self.root, self.client, self.url, self.kind, self.serializer = root, client, url, kind, serializer
        self.workers: list[subprocess.Popen[bytes]] = []
        (root / "jobs.py").write_text(MODULE)
        (root / "f.py").write_text("def handler(event, context): return event['data']\n")
        (root / "quiet.py").write_text("from broker.source import Source\nclass Quiet(Source): pass\n")
        (root / "config.toml").write_text(
            f'[broker]\nredis = "{url}"\ngrace = "20s"\n'
            f'[broker.rq]\nqueues = ["mail", "later"]\nserializer = "{serializer}"\n'
            '[functions.f]\nhandler = "f.py:handler"\nretry = { attempts = 1 }\n'
            '[sources.q]\nkind = "./quiet.py:Quiet"\n'
            '[[triggers]]\nsource = "q"\nfunction = "f"\n'
        )

    def queue(self, name: str = "mail") -> Queue:
        return Queue(name, connection=self.client, serializer=self.serializer)

    def start(self, *, name: str = "", burst: bool = False, max_jobs: int | None = None) -> subprocess.Popen[bytes]:
        """Start a worker; unless it runs a burst, it is registered when this returns."""
        before = {worker.name for worker in Worker.all(connection=self.client)}
        if self.kind == "rq":
            argv = ["-m", "rq.cli", "worker", "-u", self.url, "-S", self.serializer, "--with-scheduler"]
            argv += ["--name", name] if name else []
            argv += ["--burst"] if burst else []
            argv += ["--max-jobs", str(max_jobs)] if max_jobs else []
            argv += ["mail", "later"]
        else:
            argv = ["-c", textwrap.dedent(OURS), str(self.root / "config.toml"), name, str(burst), str(max_jobs)]
        process = subprocess.Popen(
            [sys.executable, *argv],
            cwd=self.root,
            env=environment(PYTHONWARNINGS="ignore"),
            start_new_session=True,
        )
        self.workers.append(process)
        if not burst and not max_jobs:
            until(lambda: {worker.name for worker in Worker.all(connection=self.client)} - before, within=20)
        return process

    def worker(self, name: str) -> Worker:
        """Return what RQ knows of a worker."""
        return next(worker for worker in Worker.all(connection=self.client) if worker.name == name)

    def ends(self, job, status: str = "finished", within: float = PATIENCE):
        until(lambda: job.get_status() == status, within=within, what=lambda: f"{job.id} is {job.get_status()}")
        job.refresh()
        return job

    def held(self, key: str = "held") -> int:
        """Wait until a job has called `hold`; its process."""
        return int(self.client.blpop(key, 20)[1])

    def go_on(self, key: str = "held") -> None:
        self.client.rpush(f"{key}:go", 1)

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
                raise


OURS = """
    import logging, sys
    from broker import config
    from broker.store import connection
    from broker.worker import Worker
    path, name, burst, max_jobs = sys.argv[1:]
    loaded = config.load(path)
    logging.basicConfig(level=logging.INFO)
    worker = Worker(loaded, connection.connect(loaded), name=name or None)
    worker.work(burst=burst == "True", max_jobs=None if max_jobs == "None" else int(max_jobs))
"""
