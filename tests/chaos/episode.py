"""Episode: one fault under load, and then the oracle: what was promised, what the books say, what really ran."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import redis

from broker.ledger import audit
from broker.ledger.inspection import misplaced
from tests.chaos.rig import EVERY, QUEUES, Rig
from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.ledger import Account
    from tests.chaos.faults import Blow

AT_REST, LONGEST = 30.0, 120.0
"""Seconds for which nothing may move while something is owed, once nobody produces; and in all."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one episode came to."""

    fault: str
    events: int
    """How many were owed since the last episode."""
    in_flight: int
    most: int
    """How many may have begun again, where more than one moment counts; see `Blow`."""
    started_twice: int
    """Invocations that began once more than before."""
    lost: int
    refused: int
    """How many requests were answered 429 or 503, or not at all."""
    recovery: float
    """Seconds until nobody held any more what was in flight, and requests were taken again."""
    within: float
    """Seconds that this may take; see `Blow`."""
    took: float
    """Seconds for all of it: load, fault, recovery, and until nothing was owed and all was compared."""

    @property
    def late(self) -> bool:
        return self.recovery > self.within


class Oracle:
    """Compares what producers were told with the books and with what ran, from one rest to the next."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._poison: set[str] = set()
        self._extra: Counter[str] = Counter()
        """invocation -> how often it has begun besides the first time."""
        self._owed = 0
        self._books: dict[str, Account] = {}

    def run(self, fault: Callable[[Rig, random.Random], Blow], rng: random.Random) -> Figures:
        """Hit the rig once and compare; fails when anything is lost, doubled or out of balance."""
        rig, load, began = self._rig, self._rig.load, time.monotonic()
        rig.mend()
        refused = self._refused()
        load.start()
        time.sleep(rng.uniform(0.2, 0.8))
        blow = fault(rig, rng)
        watched = blow.in_flight if blow.watched is None else blow.watched

        def recovered() -> bool:
            load.complain()
            return rig.passed_on(watched) and load.taken_at > blow.at

        until(recovered, within=60, every=0.01, what=lambda: f"it recovers from {fault.__name__}: {load.answers}")
        recovery = (blow.recovered or time.monotonic()) - blow.at
        time.sleep(rng.uniform(0.1, 0.3))
        load.stop()
        if blow.poison:
            self._poison.add(blow.poison)
        rig.mend()
        self._come_to_rest(fault.__name__)
        twice = self._twice(blow)
        assert list(misplaced(rig.client, QUEUES)) == []
        events, self._owed = len(load.owed) - self._owed, len(load.owed)
        return Figures(
            fault=fault.__name__,
            events=events,
            in_flight=len(blow.in_flight),
            most=max(blow.most, len(blow.in_flight)),
            started_twice=twice,
            lost=len(load.owed - rig.records.ended - self._poison),
            refused=self._refused() - refused,
            recovery=recovery,
            within=blow.within,
            took=time.monotonic() - began,
        )

    def _come_to_rest(self, fault: str) -> None:
        """Return once all is as it must be; fails when nothing moves any more, and it is not."""
        end, moved_at, before = time.monotonic() + LONGEST, time.monotonic(), None
        while problems := self._problems():
            now = time.monotonic()
            if self._books != before:
                before, moved_at = self._books, now
            if now > min(end, moved_at + AT_REST):
                raise AssertionError(f"after {fault}: {'; '.join(problems)}")
            time.sleep(0.05)

    def _refused(self) -> int:
        return sum(count for answer, count in self._rig.load.answers.items() if answer != 202)

    def _problems(self) -> list[str]:
        """Return what is not as it must be once everything has ended; ticks go on, so look until they make no odds."""
        rig, load, records = self._rig, self._rig.load, self._rig.records
        try:
            books = self._books = {account.queue: account for account in audit(rig.client)}
            records.read()
            if books != {account.queue: account for account in audit(rig.client)}:
                return ["the books move"]
        except (redis.RedisError, OSError) as error:
            return [str(error)]
        work, landed = books["work"], books["landed"]
        found = [
            f"{account.queue}: {account}"
            for account in books.values()
            if account.missing or account.queued or account.leased or account.scheduled or account.vanished
        ]
        if lost := load.owed - records.ended - self._poison:
            found.append(f"{len(lost)} were promised and have not ended: {sorted(lost)[:5]}")
        reasons = {self._reason(key) for key in self._poison}
        if not reasons <= {"WorkerLost", "EnvironmentDied", "Killed"}:
            found.append(f"the poison died of {reasons}")
        if work.dead != len(self._poison) or landed.dead:
            found.append(f"{work.dead} and {landed.dead} dead letters, expected {len(self._poison)} and 0")
        ran = {key for key in records.invocations if not key.startswith("=")}
        if work.accepted != len(ran):
            found.append(f"{work.accepted} are accepted, and {len(ran)} events ran")
        if landed.finished != work.finished or len(records.invocations) - len(ran) != work.finished:
            found.append(f"{work.finished} finished, and {len(records.invocations) - len(ran)} were followed up")
        promised = load.owed | load.maybe | self._poison
        if strangers := [key for key in ran if key not in promised and not key.startswith("t")]:
            found.append(f"nobody has produced {strangers[:5]}")
        if doubled := [key for key, ids in records.invocations.items() if len(ids) > 1]:
            found.append(f"{len(doubled)} events were taken on twice: {doubled[:5]}")
        return [*found, *self._gaps(ran)]

    def _reason(self, key: str) -> str:
        """Return why the invocation of this key is a dead letter."""
        ids = self._rig.records.invocations[key]
        return ",".join((self._rig.client.hget(f"rq:job:{id_}", "reason") or b"").decode() for id_ in ids)

    def _gaps(self, ran: set[str]) -> list[str]:
        """Return the ticks that are missing between the first one and the last."""
        ticks = sorted(_number(key) for key in ran if key.startswith("t"))
        gaps = [(a, b) for a, b in pairwise(ticks) if b - a != 1]
        return [f"{len(gaps)} gaps in the schedule: {gaps[:5]}"] if gaps else []

    def _twice(self, blow: Blow) -> int:
        """Return how many have begun again since the last time, all of which must have been in flight."""
        allowed = {lease.invocation for lease in blow.in_flight}
        now = Counter({id_: len(runs) - 1 for id_, runs in self._rig.records.starts.items() if len(runs) > 1})
        again = now - self._extra
        self._extra = now
        if len(again) <= blow.most:
            return len(again)
        if strange := {id_: self._rig.records.starts[id_] for id_ in again if id_ not in allowed}:
            some = list(strange.items())[:3]
            raise AssertionError(f"{len(strange)} of {len(again)} ran again, and were not in flight: {some}")
        for id_ in again:
            attempts = [run.attempt for run in self._rig.records.starts[id_]]
            assert len(attempts) == len(set(attempts)), f"{id_}: context.attempt was {attempts}"
        return len(again)


def _number(tick: str) -> int:
    """Return the number of a tick of the rig's schedule: `t2026-11-23T03:00:00Z`."""
    return round(datetime.fromisoformat(tick[1:]).timestamp() / EVERY)
