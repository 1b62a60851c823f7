"""The outbox: what could not be told, or was told and not answered, is told again, and written once."""

from __future__ import annotations

import pytest

from broker import logs, tail
from broker.errors import StoreUnavailable
from broker.function import Function
from broker.ledger import Claimed, Ledger, Settlement
from broker.worker import outbox
from broker.worker.outbox import Outbox
from tests.integration.flow_driver import Driver


class Losing(Ledger):
    """Loses the answers to the next calls, which are carried out or not."""

    lost = 0
    carried_out = True

    def run(self, call):
        if not self.lost:
            return super().run(call)
        self.lost -= 1
        if self.carried_out:
            super().run(call)
        raise StoreUnavailable("the answer was lost")


class Printing:
    """What an outbox wants of an attempt: its lines."""

    function = Function(name="f", handler="f.py:handler")

    def __init__(self, *texts: str) -> None:
        self.lines = [logs.Line("a", 1, 0, "", text) for text in texts]

    def take_lines(self):
        return self.lines


def fill(box: Outbox, *texts: str, cpu: int = 5) -> None:
    box.add_lines(Printing(*texts))
    box.add_cpu("f", cpu)


def tell(box: Outbox, ledger: Ledger) -> None:
    """Tell the next group, as a worker does."""
    try:
        box.answered(ledger.run(box.tell()))
    except StoreUnavailable:
        box.lost()
        raise


def tell_all(box: Outbox, ledger: Ledger) -> None:
    while box:
        tell(box, ledger)


def written(client) -> tuple[list[str], int]:
    """Return the lines in the log stream, and the processor time in the usage."""
    texts = [line.text for line in tail.read(client, ["f"])]
    return texts, sum(int(client.hget(key, "cpu_us") or 0) for key in client.scan_iter("broker:usage:*:f"))


@pytest.mark.parametrize("carried_out", [True, False])
def test_what_was_told_and_not_answered_is_written_once(redis_client, carried_out):
    driver = Driver(redis_client)
    driver.publish(driver.order("a"))
    (claimed,) = driver.claim().claimed
    ledger = Losing(redis_client)
    ledger.carried_out = carried_out
    box = Outbox(ledger, "w")
    box.settlements.append(finished(claimed))
    fill(box, "one")
    ledger.lost = 2
    for text in ("two", "three"):
        with pytest.raises(StoreUnavailable):
            tell(box, ledger)
        fill(box, text)  # what is printed meanwhile is no part of what is told again
    tell_all(box, ledger)
    assert written(redis_client) == (["one", "two", "three"], 15)
    assert redis_client.hget("rq:job:a", "status") == b"finished"
    tell_all(box, ledger)
    fill(box, "one")
    tell_all(box, ledger)
    assert written(redis_client) == (["one", "two", "three", "one"], 20)


def finished(claimed: Claimed) -> Settlement:
    return Settlement(verdict="finished", queue=claimed.queue, id=claimed.id, execution=claimed.execution)


def test_two_workers_tell_the_same_and_both_are_written(redis_client):
    for name in ("v", "w"):
        ledger = Ledger(redis_client)
        box = Outbox(ledger, name)
        fill(box, "one")
        tell_all(box, ledger)
    assert written(redis_client) == (["one", "one"], 10)


def test_what_is_printed_while_redis_is_away_is_kept_up_to_a_limit(redis_client, monkeypatch, caplog):
    monkeypatch.setattr(outbox, "MOST_KEPT", 10 * logs.ENTRY_BYTES)
    ledger = Losing(redis_client)
    ledger.carried_out = False
    box = Outbox(ledger, "w")
    ledger.lost = 50
    for number in range(50):
        fill(box, f"{number:09} " * (logs.ENTRY_BYTES // 10))
        with pytest.raises(StoreUnavailable):
            tell(box, ledger)
    assert "log lines are lost" in caplog.text
    tell_all(box, ledger)
    texts, cpu = written(redis_client)
    assert [int(text.split()[0]) for text in texts] == list(range(len(texts)))  # the first of them
    assert 5 <= len(texts) <= 12
    assert cpu == 250


def test_much_that_waits_is_told_in_several_calls(redis_client):
    calls = []

    class Counting(Ledger):
        def run(self, call):
            calls.append(sum(len(one) for one in call.arguments if isinstance(one, bytes)))
            return super().run(call)

    ledger = Counting(redis_client, log_entries=1 << 20)
    box = Outbox(ledger, "w")
    fill(box, *(f"{number:09} " * (logs.ENTRY_BYTES // 10) for number in range(3 * outbox.MOST_ENTRIES)))
    tell_all(box, ledger)
    assert len(written(redis_client)[0]) == 3 * outbox.MOST_ENTRIES
    assert max(calls) < 2 * outbox.MOST_ENTRIES * logs.ENTRY_BYTES
    assert len(calls) == 3
