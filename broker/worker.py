"""Worker: an RQ worker whose loop is claim -> run in warm environments -> settle."""

from __future__ import annotations

import gc
import logging
import os
import random
import selectors
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import rq
from rq.command import PUBSUB_CHANNEL_TEMPLATE, handle_command, parse_payload
from rq.serializers import JSONSerializer
from rq.worker.base import BaseWorker, WorkerStatus

from broker import identity, outbox
from broker.attempt import POISON, Attempt, is_alone
from broker.budget import Budgets
from broker.deployed.catalog import CHANGES
from broker.deployed.functions import Functions
from broker.doorbell import MISSED
from broker.ears import Ears
from broker.errors import Killed, Stopped, StoreUnavailable
from broker.ledger import Claimed, Ledger, Settlement, Want, available, calls
from broker.ledger.jobs import function_of
from broker.ledger.ledger import WAKE
from broker.ledger.pipelined import Pipelined
from broker.outbox import Outbox
from broker.outcome import Failure, bury, conclude, release, requeue
from broker.plain.jobs import PlainJobs
from broker.publisher import Publisher
from broker.registration import Registration
from broker.runtime.crew import Place
from broker.runtime.isolation import Isolation
from broker.runtime.messages import Died, Lines, Message, Ready
from broker.runtime.nursery import Nursery
from broker.runtime.pool import Pool
from broker.runtime.room import Room
from broker.runtime.staging import Staging
from broker.shift import Shift
from broker.store import connection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redis import Redis

    from broker.config import Config
    from broker.function import Function
    from broker.ledger.values import Claim, Recovery

log = logging.getLogger("broker.worker")

LEASE = 3.0
"""Seconds after which a silent worker's invocations go to others, by Redis' clock; a beat later another has noticed."""

BEAT, BUSY_BEAT = 1.0, 0.5
"""Seconds between renewals of the lease, and while something runs, which a moment's standstill must not lose; every
queue is looked at as often, should a ring have been missed."""

RECONCILE_EVERY = 3.0
"""Seconds between looks at whether this worker holds what it does not know of."""

LEARN_EVERY = 10.0
"""Seconds between looks at what was deployed, should the telling of it have been missed."""

SUSPECTS_WAIT = 0.2
"""Seconds after which a suspect that had to wait for another is claimed again."""


class Worker(rq.Worker):
    """Runs the functions of one configuration. RQ's tools see it, suspend it and stop its jobs as one of their own."""

    def __init__(self, config: Config, client: Redis, *, name: str | None = None) -> None:
        """Take a connected client; the name must be unique, and is by default."""
        self._deployed = Functions(config, client)
        self.functions = self._deployed.now.by_name
        self._sources = config.sources
        name = name or identity.of_this_process()
        self._plain = PlainJobs(config, name)
        queues = [*sorted(self.functions), *self._plain.queues] or ["broker"]
        super().__init__(queues, name=name, connection=client, serializer=JSONSerializer)
        self.ledger = Ledger(client, log_entries=config.settings.log_lines)
        self._publisher = Publisher(config, self.ledger, functions=self._deployed)
        self._selector = selectors.DefaultSelector()
        self._nursery = Nursery(config.root, Isolation.of(config))
        room = Room(config.settings.capacity, config.settings.memory)
        self._pool = Pool(self._nursery, self._selector, Staging(config, self._selector), room)
        self._commands = PUBSUB_CHANNEL_TEMPLATE % name
        self._ears = Ears(client, self._selector, [WAKE, CHANGES, self._commands], self._hear)
        self._shift = Shift(config.settings.grace)
        self._registration = Registration(self)
        self._served = set(_queues(self.functions))
        """All queues that it may have claimed from, also those of functions that are gone."""
        self._hungry = set(self.functions)
        """Functions that may have something waiting."""
        self._budgets = Budgets(config)
        self._overspent: set[str] = set()
        """Functions that wait because their budget is used up."""
        self._due: dict[str, float] = {}
        """function -> the monotonic moment at which something of it falls due."""
        self._outbox = Outbox(self.ledger, name)
        self._pipelined = Pipelined(self.ledger, self._selector, self._hear_ledger)
        self._execution_number = 0
        self._claiming: int | None = None
        """The first execution number of the claim that is on its way."""
        self._informed = False
        """Whether the lease was renewed, and it was told whether RQ suspends, since Redis was away."""
        self._ended = 0
        self._ending = False
        self._beat_at = self._reconcile_at = self._learn_at = 0.0
        self._away_until = self._away_for = 0.0
        self._suspended = False
        self._suspect: Attempt | None = None
        """What runs and would become a dead letter should this worker die."""

    @classmethod
    def find_by_key(cls, worker_key: str, *arguments: Any, **named: Any) -> BaseWorker | None:
        """Return a worker as RQ's tools see it; one of this class would need a configuration."""
        return rq.Worker.find_by_key(worker_key, *arguments, **named)

    def _set_connection(self, connection: Redis) -> Redis:
        """Leave the connection's timeouts alone: this worker never blocks in Redis, as RQ's do for minutes."""
        return connection

    # -- the loop ----------------------------------------------------------------------------------------------------

    def work(
        self,
        burst: bool = False,
        *_: Any,
        max_jobs: int | None = None,
        max_idle_time: float | None = None,
        **__: Any,
    ) -> bool:
        """Run until asked to end; with `burst` until nothing waits. Returns whether anything was run."""
        self._begin()
        self._shift.begin(burst=burst, max_jobs=max_jobs, max_idle_time=max_idle_time)
        self._plain.start(burst=burst, max_jobs=max_jobs)
        try:
            while not self._may_end():
                self._turn()
        finally:
            self._end()
        return self._ended + self._plain.ended > 0

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience(time.monotonic())):
            self._take(key.data())
        now = time.monotonic()
        self._take(self._pool.tick(now))
        self._pool.redeal(now)
        if now < self._away_until:
            return
        try:
            self._outbox.gather_lines(self._pool.running_attempts(), now)
            if not self._pipelined.is_waiting:  # what gathers meanwhile goes together
                self._settle()
                self._beat(now)
                self._learn(now)
                self._claim(now)
            self._pipelined.flush()
        except StoreUnavailable as error:
            self._lose(error)

    def _hear_ledger(self) -> list[tuple[Place, Message]]:
        try:
            self._pipelined.hear()
            self._away_for = 0.0
        except StoreUnavailable as error:
            self._lose(error)
        return []

    def _lose(self, error: StoreUnavailable) -> None:
        """Do without Redis for a moment."""
        now = time.monotonic()
        self._ears.hang_up()  # it may be dead without knowing
        self._pipelined.hang_up()
        self._outbox.lost()
        self._claiming = None
        self._informed = False  # the lease may have run out: it is renewed before anything is claimed
        self._away_for = min(1.0, max(0.05, self._away_for * 2))  # back before a lease given then ends
        self._away_until = now + self._away_for * random.uniform(0.5, 1)  # noqa: S311 -- spreads reconnections
        self._beat_at = 0.0
        log.warning("%s; trying again in %.1f s", error, self._away_until - now)

    def _patience(self, now: float) -> float:
        """Return how many seconds the loop may sleep when nothing happens."""
        if now < self._away_until:
            return min(self._away_until - now, self._pool.next_tick(now))
        if self._pipelined.is_waiting:
            moments = [self._pipelined.late_at]
        elif self._outbox or self._wants(now):
            return 0.0
        else:
            moments = [self._beat_at, *self._due.values()]
        printing = (attempt.unflushed_since for attempt in self._pool.running_attempts())
        moments += [since + outbox.FLUSH_AFTER for since in printing if since is not None]
        if self._shift.end_by is not None:
            moments.append(self._shift.end_by)
        return max(0.0, min(min(moments) - now, self._pool.next_tick(now)))

    # -- claim -------------------------------------------------------------------------------------------------------

    def _wants(self, now: float) -> list[tuple[Function, int]]:
        """Return the functions that may have something waiting and can be given it, and how much."""
        room = self._shift.room(self._ended + self._plain.ended + self._pool.running)
        if self._suspended or not self._informed or room == 0:
            return []
        names = (name for name in self._hungry if name in self.functions and name not in self._overspent)
        functions = (self.functions[name] for name in names)
        asked = ((function, self._pool.vacancies(function, now)) for function in functions)
        wants = [(function, vacancies) for function, vacancies in asked if vacancies > 0]
        return wants if room is None else [(function, 1) for function, _ in wants[:room]]

    def _claim(self, now: float) -> None:
        for name in [name for name, due in self._due.items() if due <= now]:
            del self._due[name]
            self._hungry.add(name)
        if self._claiming is not None or not (wants := self._wants(now)):
            return
        asked = [_want(function, vacancies) for function, vacancies in wants]
        self._claiming = self._execution_number
        self._execution_number += sum(want.most for want in asked)
        self._hungry.difference_update(want.function for want in asked)  # who is heard of from now on is new
        call = calls.claim(self.name, asked, self._claiming)
        self._pipelined.send(call, lambda answer: self._begin_claimed(wants, answer))

    def _begin_claimed(self, wants: list[tuple[Function, int]], answer: Claim) -> None:
        now = time.monotonic()
        self._claiming = None
        if self._ending:
            self._outbox.settlements += [
                Settlement(verdict="release", queue=one.queue, id=one.id, execution=one.execution)
                for one in answer.claimed
            ]
            return
        if answer.changes > self._deployed.changes:  # the bell for it was not heard yet
            self._learn_at = 0.0
            with suppress(StoreUnavailable):  # what was claimed is begun all the same
                self._learn(now)
        self._due.update((name, now + seconds) for name, seconds in answer.due_in.items())
        claimed: dict[str, list[Claimed]] = {}
        for one in answer.claimed:
            claimed.setdefault(function_of(one.queue), []).append(one)
        for asked_for, vacancies in wants:
            function = self.functions.get(asked_for.name, asked_for)
            self._start_all(function, claimed.get(function.name, []), vacancies, now)
        self._pool.flush()

    def _start_all(self, function: Function, claimed: list[Claimed], vacancies: int, now: float) -> None:
        """Start what was claimed of a function, and note whether more of it may be waiting."""
        batch = function.batch
        more = len(claimed) >= (batch.size if batch else vacancies)
        for version in self._deployed.versions(function):
            self._pool.note_demand(version, more=more, now=now)
        if more:
            self._hungry.add(function.name)
        groups: dict[str, tuple[Function, list[list[Claimed]]]] = {}
        for one in claimed:
            version = self._deployed.pick(function, one.id, one.qualifier)
            _, together = groups.setdefault(version.version, (version, []))
            if batch and together and not any(is_alone(version, each) for each in (one, together[-1][0])):
                together[-1].append(one)
            else:
                together.append([one])
        for version, together in groups.values():
            attempts = (self._begin_attempt(Attempt(version, group)) for group in together)
            self._pool.give(version, [one for one in attempts if one is not None], now)

    def _begin_attempt(self, attempt: Attempt) -> Attempt | None:
        """Return an attempt that is to be run; one that must not be is settled."""
        if (hopeless := attempt.hopeless(self._sources)) is not None:
            rest, lost = attempt.part(hopeless, self._sources)
            for part, why in lost:
                self._outbox.settlements += bury(part, Failure.of(why), self._publisher.follow)
                self._outbox.add_lines(part)
            return self._begin_attempt(rest) if rest else None
        for one in attempt.claimed:
            if one.crashes and not self._may_crash(one, attempt):
                self._outbox.settlements += release(attempt, SUSPECTS_WAIT)
                return None
        attempt.begin()
        return attempt

    def _may_crash(self, one: Claimed, attempt: Attempt) -> bool:
        """Mark a suspect as running, and say whether it may run now.

        Before its last crash it runs with no other such beside it: else who is there each time dies with the poison.
        """
        if one.crashes >= POISON - 1:
            if self._suspect is not None:
                return False
            self.ledger.mark_running(one)  # when that fails it is not run, and nobody is to wait for its end
            self._suspect = attempt
        else:
            self.ledger.mark_running(one)
        return True

    # -- run and settle ----------------------------------------------------------------------------------------------

    def _take(self, messages: list[tuple[Place, Message]]) -> None:
        for place, message in messages:
            if isinstance(message, Lines):
                if (printing := self._pool.attempt_of(place, message)) is not None:
                    for line in message.lines:
                        printing.say(line.text, line.level, line.time_ms)
                continue
            attempt = self._pool.settle(place, message)
            if isinstance(message, Ready):
                continue
            self._outbox.add_cpu(place.environment.function.name, message.cpu_us)
            if attempt is None and isinstance(message, Died) and message.init:
                name = place.environment.function.name
                log.warning("%s: an environment that was to be kept warm died: %s", name, message.error)
            if attempt is not None:
                self._ended += len(attempt.claimed)
                self._hungry.add(attempt.function.name)
                self._outbox.settlements += conclude(attempt, message, self._publisher.follow)
                self._outbox.add_lines(attempt)

    def _settle(self) -> None:
        if self._outbox:
            self._pipelined.send(self._outbox.tell(), self._count)

    def _count(self, written: list[bool]) -> None:
        told = self._outbox.answered(written)
        self._registration.count(told)
        if self._suspect is not None and any(one.id == self._suspect.id for one in told):
            self._suspect = None  # not before: should this worker die now, it is not taken for what killed it

    # -- lease and registration --------------------------------------------------------------------------------------

    def _beat(self, now: float) -> None:
        if now < self._beat_at:
            return
        self._beat_at = now + (BUSY_BEAT if self._pool.running else BEAT)
        self._plain.tick(now)
        self._ears.listen(now)  # while it fails, each beat looks at every queue and tries again
        self._pipelined.send(calls.recover(self.name, LEASE, ()), self._take_stock)

    def _take_stock(self, state: Recovery) -> None:
        """Go on from what Redis says of leases; what is looked at now and then is looked at now."""
        self._tell_recovered(state)
        if dead := [name for name in state.workers if name != self.name and identity.is_dead(name)]:
            self._pipelined.send(calls.recover("", 0, dead), self._tell_recovered)
        now = time.monotonic()
        self._suspended, self._informed = state.suspended, True
        kept = (function for function in self.functions.values() if function.min)
        self._pool.keep_warm([version for function in kept for version in self._deployed.versions(function)], now)
        self._hungry.update(self.functions)
        if self._budgets:
            self._overspent, news = self._budgets.stopped(self.connection, datetime.now(UTC))
            for account in news:
                log.warning("%s", account)
        self._give_back_unknown(now)
        running = [(one.claimed[0], one.running_for()) for one in self._pool.running_attempts()]
        with suppress(StoreUnavailable):  # a Redis that is full takes no news, and runs what it has all the same
            self._registration.beat(state=self._now_doing(), running=running)

    def _tell_recovered(self, state: Recovery) -> None:
        for _, id_, crashes in state.recovered:
            log.warning("%s: taken back from a worker that died (crash %d)", id_, crashes)

    def _learn(self, now: float) -> None:
        """Take note of what was deployed: what is claimed from now on runs it, what runs goes on as it is."""
        if now < self._learn_at:
            return
        changed = self._deployed.refresh(self.connection)
        self._learn_at = now + LEARN_EVERY
        if changed:
            self.functions = self._deployed.now.by_name
            self._served.update(_queues(self.functions))
            self._hungry = set(self.functions)
            self._pool.keep(self._deployed.live())
            self._registration.serve([*sorted(self.functions), *self._plain.queues] or ["broker"])

    def _give_back_unknown(self, now: float) -> None:
        """Give back what Redis has leased to this worker without its knowing: the answer to a claim was lost."""
        if now < self._reconcile_at:
            return
        self._reconcile_at = now + RECONCILE_EVERY
        known = {(one.id, one.execution) for attempt in self._pool.attempts() for one in attempt.claimed}
        known.update((settlement.id, settlement.execution) for settlement in self._outbox.settlements)
        for queue, id_, execution in self.ledger.held_by(self.name, sorted(self._served)):
            is_coming = self._claiming is not None and int(execution.rpartition(".")[2], 16) >= self._claiming
            if (id_, execution) not in known and not is_coming:
                log.warning("%s: given back; it was claimed, and the answer was lost", id_)
                self._outbox.settlements.append(Settlement(verdict="release", queue=queue, id=id_, execution=execution))

    def _now_doing(self) -> WorkerStatus:
        if self._pool.running or self._plain.busy:
            return WorkerStatus.BUSY
        return WorkerStatus.SUSPENDED if self._suspended else WorkerStatus.IDLE

    def _begin(self) -> None:
        self._registration.begin()
        self._selector.register(self._plain, selectors.EVENT_READ, self._hear_plain)
        self._selector.register(self._nursery, selectors.EVENT_READ, self._pool.read_nursery)
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(reader, selectors.EVENT_READ, lambda: self._wake(reader))
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._install_signal_handlers()  # type: ignore[no-untyped-call]

    def _wake(self, reader: int) -> list[tuple[Place, Message]]:
        os.read(reader, 4096)
        return []

    def _hear(self, channel: str, message: bytes) -> None:
        if channel == self._commands:
            self._obey(message)
        elif channel == CHANGES:
            self._learn_at = 0.0
        elif channel == MISSED:
            self._learn_at = 0.0
            self._hungry.update(self.functions)
        elif (name := function_of(message.decode(errors="replace"))) in self.functions:
            self._hungry.add(name)

    def _hear_plain(self) -> list[tuple[Place, Message]]:
        if self._plain.hear():
            self._state = self._plain.state  # the process has written it down already
        self._plain.tick(time.monotonic())
        return []

    def _obey(self, message: bytes) -> None:
        try:
            payload = parse_payload({"data": message})
        except ValueError:
            payload = None
        if not isinstance(payload, dict) or "command" not in payload:
            log.warning("a command that is none: %r", message[:200])
        elif payload.get("command") in {"stop-job", "stop-execution"}:
            self._pool.kill(str(payload.get("job_id")), Stopped("it was stopped on request"))
        elif payload.get("command") == "kill-horse":
            for attempt in list(self._pool.running_attempts()):
                self._pool.kill(attempt.id, Killed("it was killed on request"))
        else:
            handle_command(self, payload)

    # -- the end -----------------------------------------------------------------------------------------------------

    def request_stop(self, signum: int, frame: Any) -> None:
        """End; see `Shift.stop`."""
        del signum, frame
        self._shift.stop()

    def _may_end(self) -> bool:
        now = time.monotonic()
        if self._shift.room(self._ended + self._plain.ended) == 0:
            self._plain.ask_to_end()
        if self._shift.stops and self._shutdown_requested_date is None:
            self._shutdown_requested_date = datetime.now(UTC)
            with suppress(StoreUnavailable), available():
                self.set_shutdown_requested_date()  # type: ignore[no-untyped-call]
        waiting = self._hungry.intersection(self.functions) - self._overspent
        return self._shift.is_over(
            now,
            ended=self._ended + self._plain.ended,
            busy=bool(self._pool.running or self._outbox.settlements or self._plain.working),
            waiting=not self._informed or self._claiming is not None or bool(waiting and not self._suspended),
        )

    def _end(self) -> None:
        """Give back what has not ended, then leave; what cannot be given back is taken back by others."""
        self._ending = True
        with suppress(StoreUnavailable):
            self._pipelined.finish()
        self._pipelined.hang_up()
        self._outbox.lost()
        for attempt in self._pool.drain():
            self._outbox.settlements += release(attempt)
        for attempt in list(self._pool.attempts()):
            self._outbox.settlements += requeue(attempt)
            self._outbox.add_lines(attempt)
        self._pool.close()
        self._plain.close()
        try:
            while self._outbox:
                self._count(self.ledger.run(self._outbox.tell()))
            self._registration.end()
            self.ledger.recover(dead=[self.name])  # ends the lease, and what was not given back goes to others now
        except StoreUnavailable as error:
            log.warning("%s; what this worker held goes to others in %.0f s", error, LEASE)
        self._ears.hang_up()
        signal.set_wakeup_fd(-1)
        self._selector.close()


def main(config: Config, *, burst: bool = False, name: str | None = None) -> int:
    """Run a worker until a signal ends it; the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    worker = Worker(config, connection.connect(config, wait=True, hasty=True), name=name)
    gc.collect()
    gc.freeze()  # what is there by now stays: a collection that looks at all of it takes longer than most invocations
    worker.work(burst=burst)
    return 0


def _queues(functions: Mapping[str, Function]) -> Iterator[str]:
    """Yield the queues of functions."""
    return (queue for function in functions.values() for queue in function.queues)


def _want(function: Function, vacancies: int) -> Want:
    """Return what to ask the ledger for."""
    return Want(
        function=function.name,
        queues=function.queues,
        most=function.batch.size if function.batch else vacancies,
        concurrency=function.concurrency or 0,
        batch=function.batch,
        interval=function.rate.interval if function.rate else 0,
    )
