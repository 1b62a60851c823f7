"""Faults: the ways to hit a broker that runs. Each returns what was in flight, which alone may run a second time."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from tests.chaos.clock import Clock
from tests.chaos.rig import Lease, Rig
from tests.conftest import until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

LONG = 5.0
"""Seconds: longer than a worker's lease. A rig in a hurry is content with less."""

HOUR = 3600
POISON, CROWD = 3, 12
"""How often poison may kill; how many a worker with four environments may have run and not settled at that moment."""

PROMISE = 5.0
"""Seconds within which others have what a worker held that died or stands still."""


@dataclass(frozen=True, kw_only=True)
class Blow:
    """What a fault did."""

    in_flight: frozenset[Lease] = frozenset()
    """What was leased to those that were hit, at that moment."""
    watched: frozenset[Lease] | None = None
    """Those of them whose passing on is the recovery; None: all."""
    at: float
    """The monotonic moment from which recovery counts: that of the blow, or the end of what stood in the way."""
    recovered: float | None = None
    """The moment of recovery, where the fault has waited for it itself."""
    within: float = math.inf
    """Seconds that recovery may take, on a machine that has nothing else to do."""
    poison: str = ""
    """The key of the invocation that is to become a dead letter."""
    most: int = 0
    """How many may run again, where only their number is known, and not which."""


# -- processes -------------------------------------------------------------------------------------------------------


def kill_worker(rig: Rig, rng: random.Random) -> Blow:
    """SIGKILL the worker of `broker up`: its own machine knows at once that it is dead."""
    name, worker = rig.near_name(), rig.near()
    rig.wait_for_leases(name)
    return _kill(rig, worker, name)


def kill_far_worker(rig: Rig, rng: random.Random) -> Blow:
    """SIGKILL a worker that might be on another machine: its lease has to run out."""
    rig.wait_for_leases(rig.far_name)
    return _kill(rig, rig.far(), rig.far_name)


def _kill(rig: Rig, worker: psutil.Process, name: str) -> Blow:
    with rig.standing_still(worker):
        held, below = rig.leases(name), worker.children(recursive=True)
        worker.kill()
        now = time.monotonic()
    _, alive = psutil.wait_procs(below, timeout=20)
    assert not alive, f"its nursery and environments have not gone with it: {alive}"
    return Blow(in_flight=held, at=now, within=PROMISE)


def stop_worker(rig: Rig, rng: random.Random) -> Blow:
    """SIGSTOP a worker beyond its lease and let it go on: others have what it held, and it is told so."""
    rig.wait_for_leases(rig.far_name)
    worker = rig.far()
    with rig.standing_still(worker):
        held, now = rig.leases(rig.far_name), time.monotonic()
        until(lambda: rig.passed_on(held), within=30, every=0.02, what="others take what it held")
        recovered = time.monotonic()
        time.sleep(rng.uniform(0, 1))
    return Blow(in_flight=held, at=now, recovered=recovered, within=PROMISE)


def kill_environment(rig: Rig, rng: random.Random) -> Blow:
    """SIGKILL one environment."""
    return _kill_below(rig, lambda nursery: rng.choice(nursery.children()))


def kill_nursery(rig: Rig, rng: random.Random) -> Blow:
    """SIGKILL the process that environments are forked from; they go with it."""
    return _kill_below(rig, lambda nursery: nursery)


def _kill_below(rig: Rig, choose: Callable[[psutil.Process], psutil.Process]) -> Blow:
    name, worker = rig.near_name(), rig.near()
    rig.wait_for_leases(name)
    with rig.standing_still(worker):
        held = rig.leases(name)
        (nursery,) = worker.children()
        victim = choose(nursery)
        below = [victim, *victim.children(recursive=True)]
        victim.kill()
        # Before the worker goes on, and gives them more; a zombie waits for the worker, which stands still.
        until(lambda: not any(_runs(process) for process in below), what=lambda: f"{below} end")
    return Blow(in_flight=held, at=time.monotonic())


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def kill_host(rig: Rig, rng: random.Random) -> Blow:
    """SIGKILL the process that runs the sources; nothing may run twice."""
    until(lambda: rig.child("host"), within=20).kill()
    return Blow(at=time.monotonic())


def kill_up(rig: Rig, rng: random.Random) -> Blow:
    """SIGKILL `broker up` alone: the kernel ends what it had started; then start it again."""
    return _kill_all(rig, lambda: [rig.up])


def kill_everything(rig: Rig, rng: random.Random) -> Blow:
    """SIGKILL every process of the project, in an order of chance; then start all again."""

    def everything() -> list[psutil.Process]:
        found = rig.broker.processes()
        rng.shuffle(found)
        return found

    return _kill_all(rig, everything)


def _kill_all(rig: Rig, victims: Callable[[], list[psutil.Process]]) -> Blow:
    workers, name = [rig.near(), rig.far()], rig.near_name()
    rig.wait_for_leases(name)
    chosen = victims()
    with rig.standing_still(*workers):
        near = rig.leases(name)
        held = rig.leases() if rig.far() in chosen else near
        for victim in chosen:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
    rig.broker.killed()
    now = time.monotonic()
    rig.broker.start()
    # What the second worker held waits for its lease, as no machine knows it; it is no part of the recovery here.
    return Blow(in_flight=held, watched=near, at=now)


# -- Redis -----------------------------------------------------------------------------------------------------------


def kill_redis(rig: Rig, rng: random.Random) -> Blow:
    """SIGKILL the embedded server; whoever runs something finishes it and says so later: nothing runs twice."""
    until(lambda: rig.child("valkey-server"), within=20).kill()
    return Blow(at=time.monotonic())


def restart_redis(rig: Rig, rng: random.Random) -> Blow:
    """SIGKILL the server, leave it away for longer than a lease at times, and let it load its file slowly."""
    assert rig.server is not None
    rig.server.kill()
    _wait(rig, rng, 0.0, 1.0, LONG)
    rig.server.start("--key-load-delay", "20", wait=False)
    until(rig.server.answers, within=60, what="the server has loaded its file")
    return Blow(at=time.monotonic())


def stop_redis(rig: Rig, rng: random.Random) -> Blow:
    """SIGSTOP the server, for longer than a lease at times."""
    server = rig.child("valkey-server")
    if server is None:
        assert rig.server is not None and rig.server.process is not None
        server = psutil.Process(rig.server.process.pid)
    with rig.standing_still(server):
        _wait(rig, rng, 0.5, 2.0, LONG)
    return Blow(at=time.monotonic())


def fail_over(rig: Rig, rng: random.Random) -> Blow:
    """SIGKILL the master; its replica becomes one. What was written and not copied is gone, and runs again."""
    assert rig.guarded is not None
    held = rig.leases()
    return Blow(in_flight=held, at=rig.guarded.fail_over(), most=len(held) + 2 * CROWD)


def fill_memory(rig: Rig, rng: random.Random) -> Blow:
    """Let Redis refuse whatever takes memory: nothing new is taken on, and what is there is run."""
    rig.client.config_set("maxmemory", 1)
    _wait(rig, rng, 1.0, 3.0, LONG)
    rig.client.config_set("maxmemory", 0)
    return Blow(at=time.monotonic())


# -- disk, network, clock --------------------------------------------------------------------------------------------


def fill_disk(rig: Rig, rng: random.Random) -> Blow:
    """Fill the disk to its last byte, then make room again."""
    with _full_disk(rig):
        _wait(rig, rng, 1.0, 3.0, LONG)
    return Blow(at=time.monotonic())


def fill_disk_and_kill_redis(rig: Rig, rng: random.Random) -> Blow:
    """Fill the disk, kill the server on it, and make room only after that: what it answered, it still knows."""
    with _full_disk(rig):
        time.sleep(rng.uniform(0.5, 3))
        if server := rig.child("valkey-server"):
            server.kill()
        time.sleep(0.5)
    return Blow(at=time.monotonic())


class _full_disk:  # noqa: N801 -- reads as a context
    def __init__(self, rig: Rig) -> None:
        self._path = rig.disk / "filler"

    def __enter__(self) -> None:
        with self._path.open("wb", buffering=0) as filler:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while filler.write(b"x" * size) == size:
                        pass

    def __exit__(self, *_: object) -> None:
        self._path.unlink()


def cut(rig: Rig, rng: random.Random) -> Blow:
    """Cut the second worker's connections, for longer than its lease at times."""
    held = rig.leases(rig.far_name)
    rig.proxies[-1].cut()
    held |= rig.leases(rig.far_name)
    _wait(rig, rng, 0.1, 1.0, LONG)
    rig.proxies[-1].restore()
    return Blow(in_flight=held, at=time.monotonic())


def hold(rig: Rig, rng: random.Random) -> Blow:
    """Lose every packet of the second worker, for longer than its lease at times."""
    held = rig.leases(rig.far_name)
    rig.proxies[-1].hold()
    held |= rig.leases(rig.far_name)
    _wait(rig, rng, 0.5, 2.0, LONG)
    rig.proxies[-1].release()
    return Blow(in_flight=held, at=time.monotonic())


def cut_all(rig: Rig, rng: random.Random) -> Blow:
    """Cut every connection to Redis, for longer than a lease at times: when all are away, none is dead."""
    for proxy in rig.proxies:
        proxy.cut()
    _wait(rig, rng, 0.1, 1.0, LONG)
    for proxy in rig.proxies:
        proxy.restore()
    return Blow(at=time.monotonic())


def clock_of_redis_forward(rig: Rig, rng: random.Random) -> Blow:
    """Put the clock of Redis an hour ahead, and after a while back."""
    return _move(rig, rig.server_clock, HOUR, rng)


def clock_of_redis_back(rig: Rig, rng: random.Random) -> Blow:
    """Put the clock of Redis an hour back, and after a while right again."""
    return _move(rig, rig.server_clock, -HOUR, rng)


def clock_of_hosts_forward(rig: Rig, rng: random.Random) -> Blow:
    """Put the clock of host and worker an hour ahead, and after a while back: schedules make up for an hour."""
    return _move(rig, rig.clock, HOUR, rng)


def clock_of_hosts_back(rig: Rig, rng: random.Random) -> Blow:
    """Put the clock of host and worker an hour back, and after a while right again: no tick comes twice."""
    return _move(rig, rig.clock, -HOUR, rng)


def _move(rig: Rig, clock: Clock, seconds: int, rng: random.Random) -> Blow:
    clock.set(seconds)
    _wait(rig, rng, 0.5, 2.0, LONG)
    clock.set(0)
    return Blow(at=time.monotonic())


# -- poison ----------------------------------------------------------------------------------------------------------


def poison_environment(rig: Rig, rng: random.Random) -> Blow:
    """Push what kills each environment that runs it."""
    return _poison(rig, "kill-environment", rng)


def poison_worker(rig: Rig, rng: random.Random) -> Blow:
    """Push what kills each worker that runs it."""
    return _poison(rig, "kill-worker", rng)


def _wait(rig: Rig, rng: random.Random, *seconds: float) -> None:
    time.sleep(min(rng.choice(seconds), rig.patience))


def _poison(rig: Rig, what: str, rng: random.Random) -> Blow:
    key = f"{what}-{rng.getrandbits(40):x}"
    dead = rig.client.zcard("rq:failed:work")
    rig.load.publish(key)
    held = rig.leases()

    def buried() -> bool:
        rig.revive()
        return int(rig.client.zcard("rq:failed:work")) > dead

    until(buried, within=180, every=0.02, what=f"{key} is a dead letter")
    # Whoever shares a worker with it is hit as well, at moments that nobody knows beforehand.
    return Blow(in_flight=held, at=time.monotonic(), poison=key, most=POISON * CROWD)


EMBEDDED = (
    *(kill_worker, kill_far_worker, stop_worker, kill_environment, kill_nursery, kill_host, kill_up, kill_everything),
    *(kill_redis, stop_redis, fill_memory, fill_disk, fill_disk_and_kill_redis, cut, hold),
    *(poison_environment, poison_worker),
)
EXTERNAL = (
    *(kill_worker, kill_far_worker, kill_host, restart_redis, stop_redis, fill_memory, cut_all, hold),
    *(clock_of_redis_forward, clock_of_redis_back, clock_of_hosts_forward, clock_of_hosts_back),
)
SENTINEL = (fail_over, kill_worker, fail_over, kill_host)

FAULTS = {"everysec": EMBEDDED, "always": EMBEDDED, "external": EXTERNAL, "sentinel": SENTINEL}
