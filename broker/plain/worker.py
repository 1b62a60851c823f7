"""Plain worker: RQ's own worker under the name of a worker of ours, in a process of its own.

It takes plain jobs one after the other and runs each in a work-horse, as RQ does: leases, timeouts, callbacks, results,
retries, repeats and dependents are RQ's code. What is different, and why:

- The name belongs to the worker of ours that started this process: it registers, says what state it is in, and tells
  when to stop.
- A job is moved to RQ's intermediate queue when it is taken, also of several queues: a crash does not lose it.
- Leases are short and schedules are looked at here, each second: RQ has a process more for it.
- The work-horse dies with this process. So a job without a lease does not run any more.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import redis
import rq
from rq.command import handle_command, parse_payload
from rq.registry import clean_registries
from rq.scheduler import RQScheduler
from rq.suspension import is_suspended
from rq.utils import now
from rq.worker.base import WorkerStatus
from rq.worker_registration import clean_worker_registry

from broker import leash
from broker.plain.bell import Bell
from broker.store import sentinel

if TYPE_CHECKING:
    from types import FrameType

    from redis import Redis
    from redis.client import Pipeline
    from rq.executions import Execution
    from rq.job import Job
    from rq.queue import Queue

log = logging.getLogger("broker.plain")

DONE = "done"
"""Reported after each job."""

LOOK_EVERY = 1
"""Seconds between looks at schedules, at suspension, and at the work-horse."""

LEASE = 20
"""Seconds after which a job whose worker is silent counts as abandoned."""

CLEAN_EVERY = 15
"""Seconds between looks for abandoned jobs."""

LOCK_EVERY = 20.0
"""Seconds between renewals of the locks on schedules, which last a minute."""

STUCK_AFTER = 60.0
"""Seconds for which a job may have been taken without being begun."""

AWAY = 1.0
"""Seconds between tries while Redis is away."""

_GIVE_BACK = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 1 then redis.call('LPUSH', KEYS[2], ARGV[1]) end
"""


class PlainWorker(rq.Worker):
    """One of RQ's workers, without a registration of its own."""

    def __init__(
        self, queues: Sequence[str], *, name: str, client: Redis, serializer: str, report: Callable[[str], None]
    ) -> None:
        """Take what `report` is to be told: RQ's states, and `done` after each job."""
        super().__init__(
            list(queues),
            name=name,
            connection=client,
            serializer=serializer,
            job_monitoring_interval=LOOK_EVERY,
            maintenance_interval=CLEAN_EVERY,
        )
        self.birth_date = self.last_heartbeat = now()
        self._report = report
        self._parent = os.getppid()
        self._bell = Bell(client, self.queue_keys())
        self._schedules = RQScheduler(
            self.queues, connection=client, serializer=self.serializer, name=name, logging_level=logging.WARNING
        )
        self._locks_at = 0.0
        self._master = sentinel.master_of(client)
        self._follow_at = 0.0
        self._taken: dict[str, dict[str, float]] = {}
        """queue -> id of a job that was taken and not begun -> the monotonic moment at which it was first seen so."""
        self._give_back = client.register_script(_GIVE_BACK)

    def _set_connection(self, connection: Redis) -> Redis:
        """Leave the connection's timeouts alone: nothing blocks on it."""
        return connection

    # -- the registration, which is another's ------------------------------------------------------------------------

    def register_birth(self) -> None:
        """Do nothing: the name is registered."""

    def register_death(self) -> None:
        """Do nothing: the name lives on."""

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """Write `busy` and `idle` when they change; the rest is for the worker whose name this is."""
        if state != self._state and state in {WorkerStatus.BUSY, WorkerStatus.IDLE}:
            super().set_state(state, pipeline)
            self._report(WorkerStatus(state).value)

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Renew what belongs to running jobs; how long the registration lasts is not said here."""
        del timeout
        if pipeline is not None:
            self.last_heartbeat = now()
            pipeline.hset(self.key, "last_heartbeat", self.serialize()["last_heartbeat"])
            pipeline.expire(self.executions_key, self.worker_ttl)

    # -- take --------------------------------------------------------------------------------------------------------

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Return the next job, of the first queue that has one; None when asked to stop, or in a burst at its end."""
        del max_idle_time
        burst = timeout is None
        self.set_state(WorkerStatus.IDLE)
        while not self._stop_requested:
            try:
                found = self._look()
                if found is not None or burst:
                    return found
                self._bell.wait(LOOK_EVERY)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                log.warning("%s; trying again in %.0f s", error, AWAY)
                time.sleep(AWAY)
        return None

    def _look(self) -> tuple[Job, Queue] | None:
        if is_suspended(self.connection):
            time.sleep(LOOK_EVERY)
            return None
        self._follow()
        self._schedule()
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()  # type: ignore[no-untyped-call]
        for queue in self._ordered_queues:
            found: tuple[Job, Queue] | None = self.queue_class.dequeue_any(
                [queue],  # one at a time: of several RQ takes with BLPOP, and keeps no note of it
                None,
                connection=self.connection,
                job_class=self.job_class,
                serializer=self.serializer,
                death_penalty_class=self.death_penalty_class,
            )
            if found is not None:
                found[0].redis_server_version = self.get_redis_server_version()  # type: ignore[no-untyped-call]
                return found
        return None

    def _follow(self) -> None:
        """Leave a server that is not the master any more. A thread would be there when a work-horse is forked."""
        moment = time.monotonic()
        if self._master is not None and moment >= self._follow_at:
            self._master.look()
            self._follow_at = moment + sentinel.LOOK_EVERY

    def _schedule(self) -> None:
        """Queue what has fallen due, of the queues whose schedules nobody else looks at."""
        moment = time.monotonic()
        if moment >= self._locks_at:
            self._schedules.acquire_locks()  # type: ignore[no-untyped-call]
            self._schedules.register_birth()
            self._locks_at = moment + LOCK_EVERY
        if self._schedules.acquired_locks:
            self._schedules.enqueue_scheduled_jobs()  # type: ignore[no-untyped-call]

    # -- run ---------------------------------------------------------------------------------------------------------

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Return for how many seconds a sign of life holds."""
        del job, working_time
        return LEASE

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = True) -> None:
        """Note that the job has begun, and take it out of the intermediate queue whatever the number of queues."""
        del remove_from_intermediate_queue
        super().prepare_job_execution(job, True)

    def setup_work_horse_signals(self) -> None:
        """Let the work-horse die with this process, and leave this process' own means alone."""
        leash.die_with_parent(self.pid or 0, signal.SIGKILL)
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Renew the lease of the job that runs. It goes on while Redis is away."""
        try:
            self._follow()
            super().maintain_heartbeats(job, execution)
            self._schedule()
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            log.warning("%s: its lease was not renewed: %s", job.id, error)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a job in a work-horse, to its end."""
        super().execute_job(job, queue)
        self._report(DONE)

    # -- what was left behind ----------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Do with jobs that this worker began and does not run any more what RQ does with abandoned ones, at once."""
        executions = self.get_current_executions(refresh=True)
        with self.connection.pipeline() as pipeline:
            for execution in executions:
                for queue in self.queues:
                    pipeline.zadd(queue.started_job_registry.key, {execution.composite_key: 1}, xx=True)
                pipeline.srem(self.executions_key, execution.composite_key)
            pipeline.execute()
        if executions:
            for queue in self.queues:
                queue.started_job_registry.cleanup()

    def clean_registries(self) -> None:
        """Look for what has expired or was abandoned, in the queues that nobody else looks after at this moment."""
        for queue in self.queues:
            if queue.acquire_maintenance_lock():
                try:
                    clean_registries(queue)
                    clean_worker_registry(queue)
                    self._give_back_stuck(queue)
                finally:
                    queue.release_maintenance_lock()  # type: ignore[no-untyped-call]
        self.last_cleaned_at = now()  # type: ignore[assignment]

    def _give_back_stuck(self, queue: Queue) -> None:
        """Give back jobs that were taken a while ago, and never begun. RQ would have them fail."""
        running = set(queue.started_job_registry.get_job_ids(cleanup=False))
        there = set(queue.intermediate_queue.get_job_ids()) - running
        moment = time.monotonic()
        seen = self._taken[queue.name] = {id_: self._taken.get(queue.name, {}).get(id_, moment) for id_ in there}
        for id_ in [id_ for id_, since in seen.items() if moment - since > STUCK_AFTER]:
            log.warning("%s: given back; it was taken from %s and not begun", id_, queue.name)
            self._give_back(keys=[queue.intermediate_queue_key, queue.key], args=[id_])

    # -- the end -----------------------------------------------------------------------------------------------------

    def handle_payload(self, message: dict[str, Any]) -> None:
        """Obey a command that concerns the job that runs; the others are for the worker whose name this is."""
        payload = parse_payload(message)
        running = list(self.executions.values())
        ids = {"stop-job": [one.job_id for one in running], "stop-execution": [one.id for one in running]}
        named = payload.get("execution_id" if payload["command"] == "stop-execution" else "job_id")
        if (payload["command"] == "kill-horse" and self.horse_pid) or named in ids.get(payload["command"], ()):
            handle_command(self, payload)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Take nothing more, and end when what runs has ended."""
        del signum, frame
        self._stop_requested = True
        self._bell.ring()
        signal.signal(signal.SIGTERM, self.request_force_stop)

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """End at once, with the work-horse."""
        del signum, frame
        if os.getppid() != self._parent:  # nobody is in a hurry: the kernel tells of a parent's death more than once
            return
        if self.horse_pid:
            self.kill_horse()
            self.wait_for_horse()
        raise SystemExit

    def close(self) -> None:
        """Leave nothing behind: no job that does not run, no lock on a schedule."""
        self.abandon()
        self._schedules.stop()  # type: ignore[no-untyped-call]
