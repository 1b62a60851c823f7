"""Worker: an RQ worker whose loop is claim -> run in warm environments -> settle."""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import rq
from rq.command import PUBSUB_CHANNEL_TEMPLATE
from rq.serializers import JSONSerializer
from rq.worker.base import BaseWorker

from broker import identity
from broker.budget import Budgets
from broker.deployed.catalog import CHANGES
from broker.deployed.functions import Functions
from broker.doorbell import MISSED
from broker.errors import StoreUnavailable
from broker.ledger import Ledger, available
from broker.ledger.jobs import function_of
from broker.ledger.ledger import HANDED, WAKE
from broker.ledger.pipelined import Pipelined
from broker.outcome import release, requeue
from broker.plain.jobs import PlainJobs
from broker.publisher import Publisher
from broker.runtime.crew import Place
from broker.runtime.isolation import Isolation
from broker.runtime.nursery import Nursery
from broker.runtime.pool import Pool
from broker.runtime.room import Room
from broker.runtime.staging import Staging
from broker.store import connection
from broker.worker.beat import Beat
from broker.worker.beginning import Beginning
from broker.worker.claiming import Claiming
from broker.worker.commands import obey
from broker.worker.demand import Demand
from broker.worker.ears import Ears
from broker.worker.endings import Endings
from broker.worker.hand_over import HandOver
from broker.worker.learning import Learning
from broker.worker.lease import LEASE, Lease
from broker.worker.offers import Offers
from broker.worker.outage import Outage
from broker.worker.outbox import FLUSH_AFTER, Outbox
from broker.worker.parts import Parts
from broker.worker.registration import Registration
from broker.worker.shift import Shift
from broker.worker.strays import Strays

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redis import Redis

    from broker.config import Config
    from broker.function import Function
    from broker.runtime.messages import Message

log = logging.getLogger("broker.worker")


class Worker(rq.Worker):
    """Runs the functions of one configuration. RQ's tools see it, suspend it and stop its jobs as one of their own."""

    def __init__(self, config: Config, client: Redis, *, name: str | None = None) -> None:
        """Take a connected client; the name must be unique, and is by default."""
        deployed = Functions(config, client)
        functions = deployed.now.by_name
        name = name or identity.of_this_process()
        self._plain = PlainJobs(config, name)
        queues = [*sorted(functions), *self._plain.queues] or ["broker"]
        super().__init__(queues, name=name, connection=client, serializer=JSONSerializer)
        self.ledger = Ledger(client, log_entries=config.settings.log_lines)
        follow = Publisher(config, self.ledger, functions=deployed).follow
        self._selector = selectors.DefaultSelector()
        self._nursery = Nursery(config.root, Isolation.of(config))
        room = Room(config.settings.capacity, config.settings.memory)
        self._pool = Pool(self._nursery, self._selector, Staging(config, self._selector), room)
        self._demand = Demand(functions, self._pool)
        self._outbox = Outbox(self.ledger, name)
        self._pipelined = Pipelined(self.ledger, self._selector, self._hear_ledger)
        self._registration = Registration(self)
        self._commands = PUBSUB_CHANNEL_TEMPLATE % name
        self._handed = HANDED + name
        self._ears = Ears(client, self._selector, [WAKE, CHANGES, self._commands, self._handed], self._hear)
        self._shift = Shift(config.settings.grace)
        parts = Parts(
            name=name,
            client=client,
            ledger=self.ledger,
            pipelined=self._pipelined,
            deployed=deployed,
            demand=self._demand,
            pool=self._pool,
            outbox=self._outbox,
            plain=self._plain,
            registration=self._registration,
        )
        self._learning = Learning(parts)
        self._lease = Lease(parts)
        self._beginning = Beginning(parts, config.sources, follow, learn=self._learning.now)
        offers = Offers(self._demand, self._pool)
        self._hand_over = HandOver(parts, offers=offers, lease=self._lease, beginning=self._beginning)
        self._claiming = Claiming(
            parts, offers=offers, hand_over=self._hand_over, lease=self._lease, beginning=self._beginning
        )
        self._strays = Strays(parts, self._claiming, self._hand_over)
        self._beat = Beat(
            parts,
            ears=self._ears,
            lease=self._lease,
            strays=self._strays,
            learning=self._learning,
            budgets=Budgets(config),
        )
        self._told_to: list[bytes] = []
        """Commands of RQ's tools that were not obeyed yet."""
        self._endings = Endings(parts, follow)
        self._outage = Outage()

    @property
    def functions(self) -> Mapping[str, Function]:
        """The functions that it runs, by name."""
        return self._demand.functions

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
        return self._endings.count + self._plain.ended > 0

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience(time.monotonic())):
            self._endings.take(key.data())
        if self._told_to and not self._claiming.is_waiting:  # a command may be about what is being claimed
            for message in self._told_to:
                obey(message, self, self._pool)
            self._told_to.clear()
        now = time.monotonic()
        self._endings.take(self._pool.tick(now))
        if self._lease.holds():
            self._pool.redeal(now)
        if now < self._outage.until:
            return
        try:
            self._outbox.gather_lines(self._pool.running_attempts(), now)
            if not self._pipelined.is_waiting:  # what gathers meanwhile goes together
                self._settle()
                self._beat.beat(now)
                self._learning.learn(now)
                self._claim(now)
            self._pipelined.flush()
        except StoreUnavailable as error:
            self._lose(error)

    def _hear_ledger(self) -> list[tuple[Place, Message]]:
        try:
            self._pipelined.hear()
            self._outage.end()
        except StoreUnavailable as error:
            self._lose(error)
        return []

    def _lose(self, error: StoreUnavailable) -> None:
        """Do without Redis for a moment."""
        self._ears.hang_up()  # it may be dead without knowing
        self._pipelined.hang_up()
        self._outbox.lost()
        self._claiming.lost()
        self._hand_over.lost()
        self._lease.lost()
        self._strays.soon()
        self._beat.soon()
        log.warning("%s; trying again in %.1f s", error, self._outage.begin(time.monotonic()))

    def _patience(self, now: float) -> float:
        """Return how many seconds the loop may sleep when nothing happens."""
        if now < self._outage.until:
            moments = [self._outage.until]
        elif self._pipelined.is_waiting:
            moments = [self._pipelined.late_at, *self._printed()]
        elif self._outbox or self._wants(now):
            return 0.0
        else:
            moments = [self._beat.at, *self._demand.moments(), *self._printed()]
        if self._shift.end_by is not None:
            moments.append(self._shift.end_by)
        return max(0.0, min(min(moments) - now, self._pool.next_tick(now)))

    def _printed(self) -> Iterator[float]:
        """Yield the moments at which what was printed has waited for company long enough."""
        printing = (attempt.unflushed_since for attempt in self._pool.running_attempts())
        return (since + FLUSH_AFTER for since in printing if since is not None)

    def _wants(self, now: float) -> list[tuple[Function, int]]:
        """Return the functions that may have something waiting and can be given it, and how much."""
        if not self._lease.informed or self._lease.suspended or (room := self._room()) == 0:
            return []
        return self._demand.wants(room, now)

    def _room(self) -> int | None:
        begun = self._endings.count + self._pool.running + self._plain.ended + self._plain.busy
        return self._shift.room(begun)

    def _claim(self, now: float) -> None:
        self._demand.ripen(now)
        if self._lease.informed and not self._claiming.is_waiting:
            welcome = self._room() is None and not self._lease.suspended
            self._claiming.claim(self._wants(now), welcome=welcome)

    # -- what happens ------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._outbox:
            self._pipelined.send(self._outbox.tell(), self._count)

    def _count(self, written: list[bool]) -> None:
        told = self._outbox.answered(written)
        self._registration.count(told)
        self._beginning.settled(told)

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
        if channel == self._handed:
            self._hand_over.take(message, begin=not self._shift.stops)
        elif channel == self._commands:
            self._told_to.append(message)
        elif channel == CHANGES:
            self._learning.soon()
        elif channel == MISSED:
            self._learning.soon()
            self._strays.soon()
            self._demand.hungry.update(self.functions)
        elif (name := function_of(message.decode(errors="replace"))) in self.functions:
            self._demand.hungry.add(name)

    def _hear_plain(self) -> list[tuple[Place, Message]]:
        if self._plain.hear():
            self._state = self._plain.state  # the process has written it down already
        self._plain.tick(time.monotonic())
        return []

    # -- the end -----------------------------------------------------------------------------------------------------

    def request_stop(self, signum: int, frame: Any) -> None:
        """End; see `Shift.stop`."""
        del signum, frame
        self._shift.stop()

    def _may_end(self) -> bool:
        now = time.monotonic()
        if self._shift.room(self._endings.count + self._plain.ended) == 0:
            self._plain.ask_to_end()
        if self._shift.stops and self._shutdown_requested_date is None:
            self._shutdown_requested_date = datetime.now(UTC)
            with suppress(StoreUnavailable), available():
                self.set_shutdown_requested_date()  # type: ignore[no-untyped-call]
        lease = self._lease
        return self._shift.is_over(
            now,
            ended=self._endings.count + self._plain.ended,
            busy=bool(self._pool.running or self._outbox.settlements or self._plain.working),
            waiting=not lease.informed or self._claiming.is_waiting or (self._demand.waits and not lease.suspended),
        )

    def _end(self) -> None:
        """Give back what has not ended, then leave; what cannot be given back is taken back by others."""
        self._claiming.close()
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
            self.ledger.run(self._claiming.withdrawal())
            self._strays.soon()
            self._strays.give_back(self._learning.queues, time.monotonic())
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
