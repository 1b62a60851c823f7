"""Registration: how RQ's tools see a worker: its state, its heartbeat, how much it has done, what it runs.

The keys are RQ's: `rq:worker:NAME`, and for what runs `rq:worker:NAME:executions` with `rq:execution:ID:EXECUTION`.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import OutOfMemoryError
from rq import Queue, worker_registration
from rq.worker.base import WorkerStatus

from broker.errors import BrokerError, StoreUnavailable
from broker.identity import LEASED
from broker.ledger import available

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rq import Worker

    from broker.ledger import Claimed, Settlement

log = logging.getLogger("broker.worker")

BEAT = 30.0
"""Seconds between heartbeats."""

SHOWN_AFTER = 0.5
"""Seconds that an attempt must have run before it is shown as what the worker runs; most end before."""

SHOWN_FOR = 90
"""Seconds for which what runs is shown when the worker does not say so again."""


class Registration:
    """What one worker tells RQ's tools; it is told at the worker's beats, and only what has changed."""

    def __init__(self, worker: Worker) -> None:
        """Take the worker; nothing is told yet."""
        self._worker = worker
        self._beat_at = 0.0
        self._good = self._bad = self._milliseconds = 0
        self._unsure = False
        """Whether it is not known what was told last."""
        self._is_owed = False
        """Whether the registration is still to be written: a Redis that is full takes none."""
        self._shown: set[str] = set()

    def begin(self) -> None:
        """Register, and forget workers that died without a word. Raises BrokerError when one of that name is there.

        Where Redis is full it is made up for at a later beat: what is there is to be run, so that there is room again.
        """
        worker = self._worker
        with available():
            self._take_over()
            try:
                worker.register_birth()  # type: ignore[no-untyped-call]
                worker.connection.hset(worker.key, mapping={"state": WorkerStatus.STARTED, LEASED: 1})
                worker.set_state(WorkerStatus.STARTED)
            except ValueError as error:
                raise BrokerError(f"there is a worker called {worker.name} already") from error
            except OutOfMemoryError as error:
                log.warning("not registered, so RQ's tools do not see this worker yet: %s", error)
                self._is_owed = True
            for queue in worker.queues:
                worker_registration.clean_worker_registry(queue)
        self._beat_at = time.monotonic() + BEAT

    def _take_over(self) -> None:
        """Remove the registration of a worker of ours that had this name and has no lease any more: it died."""
        worker = self._worker
        pipeline = worker.connection.pipeline()
        pipeline.hexists(worker.key, LEASED)
        pipeline.zscore("broker:workers", worker.name)
        pipeline.time()
        ours, until_ms, (seconds, _) = pipeline.execute()
        if ours and (until_ms or 0) / 1000 < seconds:
            worker.connection.delete(worker.key)

    def end(self) -> None:
        """Leave, with everything told that a full Redis takes."""
        worker = self._worker
        with suppress(StoreUnavailable):
            self.beat(state=worker.get_state(), running=())
        with available():
            try:
                worker.register_death()  # type: ignore[no-untyped-call]
            except OutOfMemoryError:
                worker_registration.unregister(worker)
                worker.connection.delete(worker.key, worker.executions_key)

    def serve(self, queues: Iterable[str]) -> None:
        """Tell that the worker serves other queues now. Raises StoreUnavailable."""
        worker, pipeline = self._worker, self._worker.connection.pipeline()
        worker_registration.unregister(worker, pipeline)
        worker.queues = [Queue(name, connection=worker.connection, serializer=worker.serializer) for name in queues]
        worker_registration.register(worker, pipeline)
        pipeline.hset(worker.key, "queues", ",".join(worker.queue_names()))
        self._is_owed = True  # until it is written, should Redis be full
        with available():
            pipeline.execute()
        self._is_owed = False

    def count(self, settlements: Iterable[Settlement]) -> None:
        """Count attempts that have ended."""
        for settlement in settlements:
            if settlement.verdict == "finished":
                self._good += len(settlement.ids)
            elif settlement.failed:
                self._bad += 1
            if settlement.billed_ms:
                self._milliseconds += settlement.billed_ms

    def beat(self, *, state: str, running: Iterable[tuple[Claimed, float]]) -> None:
        """Tell what has changed; with what runs, for how many seconds it has.

        Raises StoreUnavailable; then it is told the next time.
        """
        worker, pipeline = self._worker, self._worker.connection.pipeline(transaction=False)
        now = time.monotonic()
        if self._is_owed:
            with available():
                self._register_again()
            self._is_owed, self._beat_at = False, 0.0
        due = now >= self._beat_at
        if due:
            worker.heartbeat(pipeline=pipeline)
        if due or self._unsure or state != worker.get_state():
            worker.set_state(state, pipeline)
        for field, count in (("successful_job_count", self._good), ("failed_job_count", self._bad)):
            if count:
                pipeline.hincrby(worker.key, field, count)
        if self._milliseconds:
            pipeline.hincrbyfloat(worker.key, "total_working_time", self._milliseconds / 1000)
        shown = self._show(pipeline, running, again=due)
        if not pipeline.command_stack:
            return
        self._unsure = True
        with available():
            answers = pipeline.execute()
            if due and answers[0] == 1:  # the field was new: Redis has lost the registration
                self._register_again()
        self._unsure = False
        if due:
            self._beat_at = now + BEAT
        self._shown = shown
        self._good = self._bad = self._milliseconds = 0

    def _register_again(self) -> None:
        worker, pipeline = self._worker, self._worker.connection.pipeline()
        pipeline.hset(worker.key, mapping={**worker.serialize(), "state": worker.get_state(), LEASED: 1})
        worker_registration.register(worker, pipeline)
        pipeline.execute()

    def _show(self, pipeline: Any, running: Iterable[tuple[Claimed, float]], *, again: bool) -> set[str]:
        """Show what runs, as RQ's executions. Returns it."""
        worker = self._worker
        shown = set()
        for one, seconds in running:
            if seconds < SHOWN_AFTER:
                continue
            member = f"{one.id}:{one.execution}"
            shown.add(member)
            if member not in self._shown or again:
                key, at = f"rq:execution:{member}", time.time()
                execution = {
                    "id": one.execution,
                    "job_id": one.id,
                    "created_at": at - seconds,
                    "last_heartbeat": at,
                    "worker_name": worker.name,
                }
                pipeline.hset(key, mapping=execution)
                pipeline.expire(key, SHOWN_FOR)
                pipeline.sadd(worker.executions_key, member)
                pipeline.expire(worker.executions_key, worker.worker_ttl)
        if gone := self._shown - shown:
            pipeline.srem(worker.executions_key, *gone)
            pipeline.delete(*(f"rq:execution:{member}" for member in gone))
        return shown
