"""Calls: what each of the four scripts is given, and how its answer is read; see the heads of the scripts."""

from __future__ import annotations

import base64
import itertools
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from broker.event import rfc3339_now
from broker.ledger.jobs import around_event, call_of, function_of
from broker.ledger.values import Claim, Claimed, Order, Recovery, Related, Settlement, Want

Answer = TypeVar("Answer")

NOTHING: Mapping[str, int] = MappingProxyType({})


class Call(NamedTuple, Generic[Answer]):
    """One call of a script."""

    script: str
    """Its name: `claim`."""
    arguments: list[Any]
    read: Callable[[Any], Answer]
    """Reads what it answered."""


def publish(events: Sequence[Sequence[Order]]) -> Call[list[list[int]]]:
    """Return the call that takes on the invocations of events; see `Ledger.publish`."""
    lines = _Lines()
    arguments: list[Any] = []
    for number, orders in enumerate(events):
        for order in orders:
            arguments.append(number)
            arguments += lines.order(order)

    def read(raw: Any) -> list[list[int]]:
        answers = map(Related.read, raw)
        return [[next(answers) for _ in orders] for orders in events]

    return Call("publish", [rfc3339_now(), *lines.arguments(), sum(map(len, events)), *arguments], read)


def claim(worker: str, wants: Sequence[Want], execution: int) -> Call[Claim]:
    """Return the call that leases waiting invocations; see `Ledger.claim`."""
    arguments: list[Any] = [worker, rfc3339_now(), execution, len(wants)]
    for want in wants:
        batch = want.batch
        size, window = (batch.size, int(batch.window * 1000)) if batch else (0, 0)
        arguments += (want.function, want.most, want.concurrency, size, window, want.interval * 1e6, want.offer)
        arguments += (len(want.queues), *want.queues)

    def read(raw: Any) -> Claim:
        waits, groups, now_ms, changes = raw
        ahead = int(time.time() * 1000) - int(now_ms)
        batched = {want.function for want in wants if want.batch}
        claimed: list[Claimed] = []
        for queue_name, first, *rows in zip(*(groups[n::6] for n in range(6)), strict=True):
            queue = queue_name.decode()
            step = 0 if function_of(queue) in batched else 1
            claimed += _claimed(queue, f"{worker}.", first, step, rows, ahead=ahead)
        due_in = {name.decode(): ms / 1000 for name, ms in zip(waits[::2], waits[1::2], strict=True)}
        return Claim(claimed=claimed, due_in=due_in, changes=int(changes or 0))

    return Call("claim", arguments, read)


def handed(message: bytes) -> Claim:
    """Read what a worker is told that was handed over to it; see orders.lua. Raises ValueError when it is no such."""
    queue, id_, execution, now_ms, changes, at, seldom, data = message.split(b"\n", 7)
    worker, _, number = execution.decode().rpartition(".")
    ahead = int(time.time() * 1000) - int(now_ms)
    rows: list[list[Any]] = [[id_], [data], [int(at)], [1, seldom] if seldom else []]
    claimed = _claimed(queue.decode(), f"{worker}.", int(number, 16), 1, rows, ahead=ahead)
    return Claim(claimed=list(claimed), due_in={}, changes=int(changes))


def settle(
    worker: str,
    settlements: Sequence[Settlement],
    log: Sequence[tuple[str, bytes]] = (),
    cpu: Mapping[str, int] = NOTHING,
    *,
    telling: int = 0,
    log_entries: int,
) -> Call[list[bool]]:
    """Return the call that writes down how attempts ended; see `Ledger.settle`."""
    now = rfc3339_now()  # as RQ writes moments
    lines = _Lines()
    groups, positions, unusual = _parted(settlements, f"{worker}.")
    arguments: list[Any] = [len(positions), *groups, len(unusual)]
    for _, one in unusual:
        arguments += _settlement(one, lines)
    arguments += ((telling or time.time_ns()) if log or cpu else "", len(log))
    for entry in log:
        arguments += entry
    arguments.append(len(cpu))
    for spent in cpu.items():
        arguments += spent
    head = [worker, now, now[:10], log_entries, *lines.arguments()]

    def read(raw: Any) -> list[bool]:
        written = [True] * (sum(map(len, positions)) + len(unusual))
        if raw:
            sent = [*itertools.chain.from_iterable(positions), *(position for position, _ in unusual)]
            for number in raw:
                written[sent[number - 1]] = False
        return written

    return Call("settle", head + arguments, read)


def recover(worker: str, lease: float, dead: Sequence[str]) -> Call[Recovery]:
    """Return the call that renews a lease, and takes back what dead workers held; see `Ledger.recover`."""

    def read(raw: Any) -> Recovery:
        rows, workers, suspended = raw
        return Recovery(
            recovered=[(queue.decode(), id_.decode(), crashes) for queue, id_, crashes in rows],
            workers=[name.decode() for name in workers],
            suspended=suspended == 1,
        )

    return Call("recover", [rfc3339_now(), worker, int(lease * 1000), len(dead), *dead], read)


class _Lines:
    """What many orders of a call share: each distinct (queue, description, timeout, keep, max_queue) is sent once."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, ...], int] = {}

    def order(self, order: Order) -> tuple[Any, ...]:
        """Return the arguments of one order."""
        line = (order.queue, order.description, order.timeout, order.keep, order.max_queue)
        number = self._numbers.setdefault(line, len(self._numbers) + 1)
        extra: dict[str, Any] = {}
        if order.delay > 0:
            extra["delay"] = float(order.delay)
        if order.track:
            extra["track"], extra["event"] = order.track, order.event
        if order.reply:
            extra["reply"] = order.reply
        if order.flow:
            extra["flow"] = order.flow
        return number, order.id, order.data, msgspec.json.encode(extra) if extra else b""

    def arguments(self) -> list[Any]:
        """Return the arguments that go before the orders."""
        arguments: list[Any] = [len(self._numbers)]
        for queue, description, timeout, keep, max_queue in self._numbers:
            arguments += (queue, description, max(1, round(timeout)), _seconds(keep), max_queue)
        return arguments


def _claimed(
    queue: str, prefix: str, number: int, step: int, rows: Sequence[Sequence[Any]], *, ahead: int
) -> Iterator[Claimed]:
    """Yield what claim.lua tells of one queue; executions are numbered from `number` by `step`.

    Our clock is `ahead` milliseconds ahead of the server's.
    """
    ids, jobs, moments, seldom = rows
    pasts = dict(zip(seldom[::2], seldom[1::2], strict=True))
    start, end = around_event(function_of(queue))
    around = len(start) + len(end)
    execution = f"{prefix}{number:x}"
    for position, (id_, data, at) in enumerate(zip(ids, jobs, moments, strict=True), 1):
        event = data.removeprefix(start).removesuffix(end)
        one = Claimed(queue=queue, id=id_.decode(), execution=execution, event=event, accepted_ms=at + ahead)
        if position in pasts or len(data) - len(event) != around:
            one = _told_more(one, data, pasts.get(position, b""))
        yield one
        if step:
            number += step
            execution = f"{prefix}{number:x}"


def _told_more(claimed: Claimed, data: bytes, seldom: bytes) -> Claimed:
    """Return it with what most have not: a past, somebody who waits, more in RQ's job data than the event."""
    attempt, failures, crashes, told = map(int, seldom.split()) if seldom else (1, 0, 0, 0)
    try:
        (event, client, qualifier), foreign = call_of(data, function_of(claimed.queue)), False
    except (ValueError, zlib.error):
        event, client, qualifier, foreign = b"null", b"", "", True
    return msgspec.structs.replace(
        claimed,
        event=event,
        foreign=foreign,
        attempt=attempt,
        failures=failures,
        crashes=crashes,
        told=told == 1,
        client=client,
        qualifier=qualifier,
    )


def _parted(
    settlements: Sequence[Settlement], prefix: str
) -> tuple[list[Any], list[Sequence[int]], list[tuple[int, Settlement]]]:
    """Part what is usual from the rest: the arguments of its groups, their positions; the rest with its positions."""
    batches: list[Any] = []
    positions: list[Sequence[int]] = []
    singles: dict[tuple[str, float, int], tuple[list[Any], list[int]]] = {}
    unusual: list[tuple[int, Settlement]] = []
    count, start = 0, len(prefix)
    for one in settlements:
        more = len(one.others)
        if not _is_usual(one, prefix):
            unusual += [(count, one)] if not more else enumerate(_apart(one), count)
        elif more:
            batches += (one.queue, _seconds(one.keep), one.megabytes, one.execution[start:], _number(one.billed_ms))
            batches += (more + 1, one.id, *one.others)
            positions.append(range(count, count + more + 1))
        else:
            key = (one.queue, one.keep, one.megabytes)
            row, places = singles.get(key) or singles.setdefault(key, ([], []))
            row += (one.id, one.execution[start:], _number(one.billed_ms))
            places.append(count)
        count += more + 1
    for (queue, keep, megabytes), (row, places) in singles.items():
        batches += (queue, _seconds(keep), megabytes, "", "", len(places), *row)
        positions.append(places)
    return batches, positions, unusual


def _is_usual(one: Settlement, prefix: str) -> bool:
    """Return whether nothing is to be written but that it has finished; settle.lua does that faster."""
    return (
        one.verdict == "finished"
        and one.result in {b"null", b""}
        and not (one.told or one.again or one.cold or one.failed or one.orders)
        and one.execution.startswith(prefix)
    )


def _apart(batch: Settlement) -> list[Settlement]:
    """Return a settlement of its own for each that one is about."""
    replace = msgspec.structs.replace
    rest = replace(batch, billed_ms=None, cold=False, others=())
    return [replace(batch, others=()), *(replace(rest, id=id_) for id_ in batch.others)]


def _number(value: int | None) -> int | str:
    return "" if value is None else value


def _seconds(keep: float) -> int:
    return max(1, round(keep))


def _settlement(settlement: Settlement, lines: _Lines) -> list[Any]:
    finished = settlement.verdict == "finished"
    details: dict[str, Any] = {
        name: True for name in ("failed", "crashed", "stopped", "cold", "again", "told") if getattr(settlement, name)
    }
    if settlement.delay:
        details["delay"] = settlement.delay
    if settlement.reason:
        details["reason"] = settlement.reason
    if settlement.verdict == "dead":
        details["error"] = base64.b64encode(zlib.compress(settlement.traceback.encode())).decode()
    if settlement.told:
        details["body"] = (settlement.result if finished else settlement.error).decode()
    return [
        settlement.verdict,
        settlement.queue,
        settlement.id,
        settlement.execution,
        base64.b64encode(settlement.result) if finished and settlement.result != b"null" else b"",
        _seconds(settlement.keep),
        _number(settlement.billed_ms),
        settlement.megabytes,
        msgspec.json.encode(details) if details else b"",
        len(settlement.orders),
        *[value for order in settlement.orders for value in lines.order(order)],
    ]
