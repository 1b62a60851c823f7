"""Pusher: publish a stream of messages in groups, and account for every one of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click
import msgspec

from broker.cli._given import parse_json
from broker.errors import BrokerError, EventError, QueueFull, StoreUnavailable
from broker.event import new_event
from broker.ledger import Order
from broker.publisher import GROUP, Publisher
from broker.source import Publishing, Receipt

Message = tuple[int, str, list[Order]]
"""The number of its line, its event's id, and what is owed for it."""


class Pusher:
    """Publishes messages of one queue; prints their ids, how many there are, and what could not be pushed."""

    def __init__(self, publisher: Publisher, queue: str, how: Publishing, *, as_json: bool, many: bool) -> None:
        self._publisher = publisher
        self._queue = queue
        self._how = how
        self._as_json = as_json
        self._prints = as_json or not many or not sys.stdout.isatty()
        self._shows_progress = many and sys.stderr.isatty()
        self._line = 0
        self._pushed = 0
        self._unmatched = 0
        self._known = 0
        self._superseded = 0

    def push(self, data: Any, ident: str | None) -> None:
        """Push a single message. Raises QueueFull."""
        for _, full in self._publish([self._message(0, data, ident)]):
            raise full

    def push_lines(self, blocks: Iterable[Sequence[bytes]]) -> None:
        """Push every line of each block; what stands before a line that is no message is pushed."""
        for block in blocks:
            messages: list[Message] = []
            wrong = None
            try:
                messages.extend(self._read(block))
            except EventError as error:
                wrong = error
            self._push_lines(messages)
            if wrong is not None:
                where = f"line {self._line}"
                raise EventError(f"{where}: {wrong}\n{self._pushed:,} pushed; nothing from {where} on")
            if self._shows_progress:
                click.echo(f"\r{self._pushed:,} pushed", err=True, nl=False)
        if self._shows_progress:
            click.echo(f"\r{self._pushed:,} pushed", err=True)

    def remarks(self) -> list[str]:
        """Return what is strange about what was pushed."""
        remarks = []
        if self._unmatched:
            remarks.append(f"{self._unmatched:,} of {self._pushed:,} matched no trigger, so nothing runs for them")
        if self._known:
            remarks.append(f"{self._known:,} of {self._pushed:,} had been pushed before, and do not run again")
        if self._superseded:
            remarks.append(
                f"{self._superseded:,} earlier invocations do not run: later ones came within their debounce"
            )
        return remarks

    def _push_lines(self, messages: Sequence[Message]) -> None:
        for start in range(0, len(messages), GROUP):
            group = messages[start : start + GROUP]
            first, last = group[0][0], group[-1][0]
            try:
                refused = self._publish(group)
            except StoreUnavailable as error:
                raise StoreUnavailable(
                    f"{error}\n{self._pushed:,} pushed, and perhaps some of lines {first} to {last}; nothing after them"
                ) from error
            if refused:
                raise BrokerError(
                    f"{refused[0][1]}\n{self._pushed:,} pushed; not pushed: "
                    f"{_ranges([line for line, _ in refused])}, and nothing after line {last}"
                )

    def _publish(self, group: Sequence[Message]) -> list[tuple[int, QueueFull]]:
        """Publish some messages; return those that met a full queue."""
        receipts = self._publisher.publish_orders([event for _, event, _ in group], [owed for _, _, owed in group])
        refused = []
        for (line, _, _), receipt in zip(group, receipts, strict=True):
            if isinstance(receipt, QueueFull):
                refused.append((line, receipt))
            else:
                self._tell(receipt)
        sys.stdout.flush()
        return refused

    def _tell(self, receipt: Receipt) -> None:
        self._pushed += 1
        self._unmatched += not receipt.invocations
        self._known += receipt.duplicate
        self._superseded += len(receipt.superseded)
        if self._as_json:
            sys.stdout.write(f"{json.dumps(msgspec.structs.asdict(receipt))}\n")
        elif self._prints:
            sys.stdout.write(f"{receipt.event}\n")

    def _read(self, block: Iterable[bytes]) -> Iterator[Message]:
        for line in block:
            self._line += 1
            if line.strip():
                yield self._message(self._line, parse_json(line), None)

    def _message(self, line: int, data: Any, ident: str | None) -> Message:
        event = new_event(source=self._queue, type="queue.message", id=ident, data=data)
        return line, event.id, self._publisher.orders(event, self._how)


def _ranges(lines: Sequence[int]) -> str:
    """Return line numbers for people: `lines 3, 7 to 9`."""
    runs: list[list[int]] = []
    for line in lines:
        if runs and runs[-1][-1] == line - 1:
            runs[-1][-1:] = [line] if len(runs[-1]) > 1 else [runs[-1][0], line]
        else:
            runs.append([line])
    return "lines " + ", ".join(" to ".join(map(str, run)) for run in runs)
