"""Projects with functions of their own, and a real worker process on a real Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from broker import config as configuration
from broker.event import new_event
from broker.ledger import Ledger, audit
from broker.publisher import Publisher
from tests.conftest import PATIENCE, until

if TYPE_CHECKING:
    from pathlib import Path

    import redis


class Project:
    """A folder with config.toml and handlers, on the test's Redis; starts and ends real workers."""

    def __init__(self, root: Path, client: redis.Redis, url: str) -> None:
        self.root, self.client, self.url = root, client, url
        self.workers: list[subprocess.Popen[bytes]] = []

    def configure(self, code: str, tables: str = "", *, broker: str = "", **options: object) -> None:
        """Write f.py with a `handler` and a function `f` for it, fed by the queue `q`."""
        (self.root / "f.py").write_text(textwrap.dedent(code))
        (self.root / "quiet.py").write_text("from broker.source import Source\nclass Quiet(Source): pass\n")
        lines = [f"{name} = {json.dumps(value)}" for name, value in options.items() if not isinstance(value, dict)]
        for name, value in options.items():
            if isinstance(value, dict):
                lines.append(f"[functions.f.{name}]")
                lines += [f"{key} = {json.dumps(inner)}" for key, inner in value.items()]
        (self.root / "config.toml").write_text(
            f'[broker]\nredis = "{self.url}"\n{broker}\n'
            '[sources.q]\nkind = "./quiet.py:Quiet"\n'
            '[[triggers]]\nsource = "q"\nfunction = "f"\n'
            '[functions.f]\nhandler = "f.py:handler"\n' + "\n".join(lines) + "\n" + tables
        )

    @property
    def config(self):
        return configuration.load(self.root / "config.toml")

    @property
    def publisher(self):
        return Publisher(self.config, Ledger(self.client))

    def push(self, *data: object, source: str = "q", **how: object) -> list[str]:
        """Publish messages of a source; the invocations' ids."""
        from broker.source import Publishing

        events = [new_event(source=source, type="queue.message", data=one) for one in data]
        receipts = self.publisher.publish(events, Publishing(**how))
        return [receipt.invocations[0] for receipt in receipts]

    def publish(self, data: object, how: object = None) -> list[object]:
        """Publish one message on q; its receipt."""
        from broker.source import Publishing

        return self.publisher.publish([new_event(source="q", type="queue.message", data=data)], how or Publishing())

    def worker(self, *, name: str | None = None) -> subprocess.Popen[bytes]:
        code = (
            "import sys; from broker import config, worker; "
            "sys.exit(worker.main(config.load(sys.argv[1]), name=sys.argv[2] or None))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(self.root / "config.toml"), name or ""], start_new_session=True
        )
        self.workers.append(process)
        until(lambda: self.client.zcard("broker:workers") >= len([w for w in self.workers if w.poll() is None]))
        return process

    def job(self, id: str) -> dict[str, str]:
        return {
            key.decode(): value.decode(errors="replace") for key, value in self.client.hgetall(f"rq:job:{id}").items()
        }

    def ends(self, id: str, status: str = "finished", within: float = PATIENCE) -> dict[str, str]:
        """Wait until the invocation has that status; its record."""
        until(
            lambda: self.job(id).get("status") == status,
            within=within,
            what=lambda: f"{id} is {status}: {self.job(id)}",
        )
        return self.job(id)

    def result(self, id: str):
        from rq.job import Job
        from rq.serializers import JSONSerializer

        return Job.fetch(id, connection=self.client, serializer=JSONSerializer).return_value()

    def lines(self, id: str = "") -> list[str]:
        from broker import tail

        return [line.text for line in tail.read(self.client, ["f"], invocation=id)]

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            try:
                worker.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
                raise


@pytest.fixture
def project(tmp_path, redis_client, redis_server):
    project = Project(tmp_path, redis_client, redis_server.url)
    yield project
    project.close()
    assert [account for account in audit(redis_client) if account.missing] == []
