"""Commands: what RQ's tools tell a worker to do (rq.command), as far as it is done otherwise here."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rq.command import handle_command, parse_payload

from broker.errors import Killed, Stopped

if TYPE_CHECKING:
    from rq import Worker

    from broker.runtime.pool import Pool

log = logging.getLogger("broker.worker")


def obey(message: bytes, worker: Worker, pool: Pool) -> None:
    """Do what a message on the worker's channel says."""
    try:
        payload = parse_payload({"data": message})
    except ValueError:
        payload = None
    if not isinstance(payload, dict) or "command" not in payload:
        log.warning("a command that is none: %r", message[:200])
    elif payload.get("command") in {"stop-job", "stop-execution"}:
        pool.kill(str(payload.get("job_id")), Stopped("it was stopped on request"))
    elif payload.get("command") == "kill-horse":
        for attempt in list(pool.running_attempts()):
            pool.kill(attempt.id, Killed("it was killed on request"))
    else:
        handle_command(worker, payload)
