"""RQ job: `broker.invoke`, the function that our jobs name, so that a stock `rq worker` can run them as well.

A worker of RQ runs one job at a time and starts an environment for each: it is slow, knows no `concurrency` and no
`batch`, and waits a whole number of seconds before a retry. All else is as with a worker of ours: limits, retries, log
lines, destinations, whoever waits for the end, and the books. How RQ treats what a job returns or raises:
https://python-rq.org/docs/exceptions/
"""

from __future__ import annotations

import json
import math
import select
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from rq import Retry, get_current_job

from broker import config as configuration
from broker import logs
from broker.attempt import Attempt
from broker.deployed.functions import Functions
from broker.errors import BrokerError, FunctionError, InitFailed, StoreUnavailable, UnknownFunction
from broker.ledger import Ledger, stock
from broker.outcome import Failure, bury, conclude, traceback_text
from broker.publisher import Publisher
from broker.runtime.isolation import Isolation
from broker.runtime.messages import Died, Done, Lines, Message, Ready
from broker.runtime.nursery import Nursery
from broker.runtime.preparing import prepare, task_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from rq.job import Job

    from broker.config import Config
    from broker.ledger import Settlement
    from broker.runtime.environment import Environment

PAUSE = 0.1
"""Seconds for which a printed line waits for company before it is written to its log stream."""


def invoke(function: str, event: Any, client_context: Any = None, qualifier: str = "") -> Any:
    """Run one invocation in an environment of its own; a worker of RQ calls this, with JSON as its serializer.

    The configuration is found as the command line finds it: $BROKER_CONFIG, else ./config.toml. Returns the result, or
    RQ's Retry when the attempt failed and another is due.

    Raises FunctionError when the invocation is a dead letter now, UnknownFunction, ConfigError, and BrokerError outside
    a job of RQ.
    """
    job = get_current_job()
    if job is None:
        raise BrokerError("broker.invoke is called by RQ's workers; use `broker invoke` to run a function")
    _disarm()
    config = configuration.load()
    functions = Functions(config, job.connection)
    live = functions.now.by_name.get(function)
    if live is None:
        raise UnknownFunction(f"there is no function {function!r} in {config.path}")
    ledger = Ledger(job.connection, log_entries=config.settings.log_lines)
    claimed = stock.count_attempt(
        job.connection,
        queue=job.origin,
        id_=job.id,
        execution=_execution(job),
        event=_json(event),
        client_context=b"" if client_context is None else _json(client_context),
    )
    attempt = Attempt(functions.pick(live, job.id, qualifier), [claimed])
    publisher = Publisher(config, ledger, functions=functions)
    if (hopeless := attempt.hopeless(config.sources)) is not None:
        (settlement,) = bury(attempt, Failure.of(hopeless), publisher.follow)
        cpu_us = 0
    else:
        message = _run(config, attempt, lambda: _write_lines(ledger, job, attempt))
        (settlement,) = conclude(attempt, message, publisher.follow)
        cpu_us = message.cpu_us
    return _settle(ledger, job, attempt, settlement, {function: cpu_us} if cpu_us else {})


def _settle(ledger: Ledger, job: Job, attempt: Attempt, settlement: Settlement, cpu: dict[str, int]) -> Any:
    """Book how the attempt ended, then tell RQ the same, which writes it down once more in its own way."""
    if settlement.verdict == "retry":
        ledger.settle(_worker(job), [], _entries(attempt), cpu)
        stock.count_failure(job.connection, settlement)
        return Retry(max=(job.number_of_retries or 0) + 1, interval=math.ceil(settlement.delay))
    (ours,) = ledger.settle(_worker(job), [settlement], _entries(attempt), cpu)
    if settlement.verdict == "finished":
        return msgspec.json.decode(settlement.result)
    if not ours:  # the lease was lost and another has it: had RQ a failure to note, it would be in two places
        return None
    job.failure_ttl = -1  # a dead letter is kept until somebody replays or drops it; RQ would forget it in a year
    raise FunctionError(traceback_text(settlement.error))


def _run(config: Config, attempt: Attempt, write: Callable[[], None]) -> Done | Died:
    """Run the attempt in a new environment; `write` is called while it prints."""
    prepared = prepare(task_for(config, attempt.function))
    nursery = Nursery(config.root, Isolation.of(config))
    try:
        if prepared.refusal:
            environment = nursery.refuse(attempt.function, InitFailed(prepared.refusal))
        else:
            environment = nursery.start(attempt.function, prepared.stage())
        attempt.begin()
        attempt.given = time.monotonic()
        environment.send(attempt.id, attempt.number, attempt.payload(), attempt.client)
        while True:
            for message in _wait(nursery, environment):
                if isinstance(message, Done | Died):
                    return message
                if isinstance(message, Ready):
                    attempt.cold = message.init_ms
                    attempt.given = time.monotonic()
                elif isinstance(message, Lines):
                    for line in message.lines:
                        attempt.say(line.text, line.level, line.time_ms)
            if attempt.unflushed_since is not None and time.monotonic() - attempt.unflushed_since >= PAUSE:
                with suppress(StoreUnavailable):  # they are written with the outcome
                    write()
    finally:
        nursery.close()


def _wait(nursery: Nursery, environment: Environment) -> list[Message]:
    environment.flush()
    deadline = environment.deadline
    patience = PAUSE if deadline is None else min(PAUSE, max(0.0, deadline - time.monotonic()))
    reading = [nursery.fileno(), environment.control, environment.output]
    writing = [environment.control] if environment.wants_write else []
    select.select(reading, writing, [], patience)
    nursery.read()
    messages = environment.read()
    return [*messages, *environment.tick(time.monotonic())]


def _write_lines(ledger: Ledger, job: Job, attempt: Attempt) -> None:
    ledger.settle(_worker(job), [], _entries(attempt))
    attempt.take_lines()


def _entries(attempt: Attempt) -> list[tuple[str, bytes]]:
    return [(attempt.function.name, entry) for entry in logs.entries(attempt.lines)]


def _execution(job: Job) -> str:
    """Return the name under which RQ's worker has leased the job: the execution that expires last."""
    executions = job.execution_registry.get_execution_ids()
    if not executions:
        raise BrokerError(f"RQ holds no execution of job {job.id}")
    return executions[-1]


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _worker(job: Job) -> str:
    return job.worker_name or "rq"


def _disarm() -> None:
    """Turn off RQ's alarm: the environment has the function's timeout, and its start a limit of its own.

    RQ's worker counts both as one, and would end slow starters too early; should we hang, it still kills us a minute
    after the timeout.
    """
    if threading.current_thread() is threading.main_thread():
        signal.alarm(0)
