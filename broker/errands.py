"""Errands: carry out what many sources want of Redis at once: few calls publish, one pipeline does all else."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from broker.errors import BrokerError, QueueFull
from broker.ledger import available
from broker.publisher import GROUP
from broker.source import Command, Publish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from broker.ledger import Order
    from broker.publisher import Publisher
    from broker.source import Errand


class Errands:
    """What is done for sources that are stepped; see broker/clockwork.py."""

    def __init__(self, publisher: Publisher, client: Redis) -> None:
        """Take what publishes, and a client for commands."""
        self._publisher = publisher
        self._client = client

    def carry_out(self, errands: Sequence[Errand]) -> list[Any]:
        """Return each errand's answer, or the error that is to be raised where the errand was yielded.

        One that fails is not in the way of the others, unless Redis is away: that is the answer to all that are left.
        """
        answers: dict[int, Any] = {}
        try:
            self._publish({n: one for n, one in enumerate(errands) if isinstance(one, Publish)}, answers)
            self._command({n: one for n, one in enumerate(errands) if isinstance(one, Command)}, answers)
        except Exception as error:  # noqa: BLE001 -- StoreUnavailable, or what nobody expects: whoever asked is told
            return [answers.get(number, error) for number in range(len(errands))]
        return [answers[number] for number in range(len(errands))]

    def _publish(self, errands: dict[int, Publish], answers: dict[int, Any]) -> None:
        """Publish in calls of GROUP events."""
        ids: list[str] = []
        orders: list[list[Order]] = []
        counts: dict[int, int] = {}
        for number, errand in errands.items():
            try:
                orders += [self._publisher.orders(event, errand.how) for event in errand.events]
            except BrokerError as error:  # its event is too large, or no JSON
                answers[number] = error
                continue
            ids += [event.id for event in errand.events]
            counts[number] = len(errand.events)
        receipts = [
            receipt
            for first in range(0, len(ids), GROUP)
            for receipt in self._publisher.publish_orders(ids[first : first + GROUP], orders[first : first + GROUP])
        ]
        rest = iter(receipts)
        for number, count in counts.items():
            own = list(islice(rest, count))
            full = next((receipt for receipt in own if isinstance(receipt, QueueFull)), None)
            answers[number] = full or own

    def _command(self, errands: dict[int, Command], answers: dict[int, Any]) -> None:
        if not errands:
            return
        pipeline = self._client.pipeline(transaction=False)
        for errand in errands.values():
            pipeline.execute_command(*errand.words)  # type: ignore[no-untyped-call]
        with available():
            replies = pipeline.execute(raise_on_error=False)
        for number, reply in zip(errands, replies, strict=True):
            answers[number] = _told(reply) if isinstance(reply, Exception) else reply


def _told(error: Exception) -> Exception:
    """Return StoreUnavailable for an error that passes by itself, any other as it is."""
    try:
        with available():
            raise error  # noqa: TRY301 -- to have it judged
    except Exception as told:  # noqa: BLE001 -- it is raised again where the errand was yielded
        return told
