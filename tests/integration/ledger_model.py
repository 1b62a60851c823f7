"""A model of the ledger: where each invocation must be, kept by rules of its own beside the real thing.

Time is that of the machine, in seconds; `Model.now` moves only when the machine lets it pass. Durations are far apart
(a thousand seconds), so the moments that a test itself takes do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.flow import Flow
from broker.ledger import Claimed

LIMIT = 8
"""Of every queue."""

LONG = 1000
"""Delays, retries, quiet, the time for which an event is unique, the interval of the rate."""

LONGEST = 1700
"""After so much an event that waits for quiet runs."""

FUNCTIONS = ("plain", "order", "calm", "unique", "rate", "both")
IN_PLAY = {"queued", "scheduled", "leased"}


def flow(function: str, key: str) -> Flow | None:
    """Return what the function's flow control asks of an event of that key."""
    name = f"{function}:{key}"
    quiet = {"debounce": name, "quiet": LONG, "longest": LONGEST}
    return {
        "order": Flow(turn=name),
        "calm": Flow(**quiet),
        "unique": Flow(unique=name, unique_ms=LONG * 1000),
        "both": Flow(turn=name, **quiet),
    }.get(function)


@dataclass(kw_only=True, eq=False)
class Owed:
    """One invocation."""

    id: str
    queue: str
    flow: Flow
    place: str = ""
    due: float = 0
    attempt: int = 0
    claimed: Claimed | None = None
    """Its last lease."""
    worker: str = ""
    lingers: bool = False
    """Cancelled while it ran, and its attempt goes on."""
    deleted: bool = False
    """Another tool has deleted its record, and the ledger has not met it since."""

    @property
    def function(self) -> str:
        return self.queue.partition(".")[0]

    @property
    def runs(self) -> bool:
        return self.place == "leased" or self.lingers


@dataclass(kw_only=True)
class Turn:
    holder: Owed | None = None
    line: list[Owed] = field(default_factory=list)


class Model:
    """All invocations, and what the ledger must do with them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.owed: dict[str, Owed] = {}
        self.turns: dict[str, Turn] = {}
        self.waits_for_quiet: dict[str, tuple[float, Owed]] = {}
        self.unique: dict[str, tuple[float, Owed]] = {}
        self.starts: list[float] = []
        self.offers: dict[str, dict[str, int]] = {}
        """function -> worker -> number of the execution as which it takes one more."""

    def those(self, *places: str) -> list[Owed]:
        return [one for one in self.owed.values() if one.place in places]

    def waiting(self, queue: str) -> int:
        return sum(one.queue == queue for one in self.those("queued", "scheduled", "deferred"))

    # -- publish ---------------------------------------------------------------------------------------------------

    def publish(self, new: list[Owed], delay: float) -> list[tuple[str, str]]:
        """Take them on, all of one queue; what must be answered for each, and the id of another that it names."""
        waiting = self.waiting(new[0].queue)
        answers = []
        refused: dict[str, Owed] = {}
        for one in new:
            key = one.flow.unique
            known = self.unique.get(key) if key else None
            if known and known[0] > self.now:
                answers.append(("duplicate", known[1].id))
            elif key in refused and key:
                answers.append(("full", ""))
            else:
                waiting += 1
                if waiting > LIMIT:
                    refused[key] = one
                    answers.append(("full", ""))
                else:
                    answers.append(("accepted", self._accept(one, delay)))
        return answers

    def _accept(self, one: Owed, delay: float) -> str:
        self.owed[one.id] = one
        if one.flow.unique:
            self.unique[one.flow.unique] = (self.now + LONG, one)
        superseded = ""
        if one.flow.debounce:
            first, other = self.waits_for_quiet.get(one.flow.debounce, (self.now, None))
            if (
                other
                and other.place == "scheduled"
                and not other.attempt
                and other.due > self.now
                and not other.deleted
            ):
                other.place, superseded = "superseded", other.id
            else:
                first = self.now
            one.place, one.due = "scheduled", min(self.now + LONG, first + LONGEST)
            self.waits_for_quiet[one.flow.debounce] = (first, one)
        elif delay:
            one.place, one.due = "scheduled", self.now + delay
        else:
            self.stand_in_line(one)
        return superseded

    def offer(self, function: str, worker: str, number: int) -> None:
        """Note that a worker takes one more as that execution; 0: none."""
        self.offers.setdefault(function, {})[worker] = number
        if not number:
            del self.offers[function][worker]

    def hand_over(self, new: list[Owed]) -> list[tuple[str, str, Owed]]:
        """Give what now waits, where nothing did, to those who offered; (worker, execution, invocation) of each."""
        offers = self.offers.get(new[0].function, {})
        best = sorted(offers, key=lambda worker: (offers[worker], worker), reverse=True)
        waiting = [one for one in new if one.place == "queued"]
        return [(worker, f"{worker}.{offers.pop(worker):x}", one) for worker, one in zip(best, waiting, strict=False)]

    # -- turns -----------------------------------------------------------------------------------------------------

    def stand_in_line(self, one: Owed) -> bool:
        """Let it wait in the queue if it has, or may take, its turn; else behind the others."""
        if one.flow.turn:
            turn = self.turns.setdefault(one.flow.turn, Turn())
            if turn.holder not in (None, one):
                one.place = "deferred"
                turn.line.append(one)
                return False
            turn.holder = one
        one.place = "queued"
        return True

    def pass_turn(self, one: Owed) -> None:
        turn = self.turns.get(one.flow.turn)
        if not turn or turn.holder is not one:
            return
        turn.holder = None
        while turn.line and not turn.holder:
            first = turn.line.pop(0)
            if first.deleted:
                self.vanish(first)
            elif first.place == "deferred":
                first.place, turn.holder = "queued", first

    def vanish(self, one: Owed) -> None:
        one.place, one.deleted = "vanished", False

    # -- claim, settle, recover ------------------------------------------------------------------------------------

    def due(self, queue: str) -> list[Owed]:
        """Return what falls due in the queue; it waits there from now on."""
        due = [one for one in self.those("scheduled") if one.queue == queue and one.due <= self.now]
        for one in due:
            one.place = "queued"
        return due

    def room(self, function: str, most: int, concurrency: int) -> int:
        if concurrency:
            most = min(most, concurrency - sum(one.runs for one in self.owed.values() if one.function == function))
        if function == "rate":
            most = min(most, 1 if not self.starts or self.now - self.starts[-1] >= LONG else 0)
        return max(0, most)

    def take(self, one: Owed) -> bool:
        """Take it from its queue; whether it may be leased."""
        if one.deleted:
            self.vanish(one)
            return False
        if not self.stand_in_line(one):
            return False
        one.place, one.attempt = "leased", one.attempt + 1
        if one.function == "rate":
            self.starts.append(self.now)
        return True

    def settle(self, one: Owed, claimed: Claimed, verdict: str, delay: float) -> bool:
        """Settle a lease; whether that must be written."""
        if not one.claimed or one.claimed.execution != claimed.execution or not one.runs:
            return False
        if one.lingers:
            one.lingers = False
            return False
        if one.deleted:
            self.vanish(one)
            return False
        if verdict in {"finished", "dead"}:
            one.place = verdict
            self.pass_turn(one)
        elif delay:
            one.place, one.due = "scheduled", self.now + delay
        else:
            one.place = "queued"
            one.attempt -= verdict == "release"
        return True

    def recover(self, worker: str) -> set[str]:
        """Take back what a dead worker held; the ids that must be told."""
        told = set()
        for one in [one for one in self.owed.values() if one.runs and one.worker == worker]:
            if one.lingers:
                one.lingers = False
            elif one.deleted:
                self.vanish(one)
            else:
                one.place = "queued"
                told.add(one.id)
        self.look_at_turns()
        return told

    def look_at_turns(self) -> None:
        for turn in self.turns.values():
            one = turn.holder
            if one and not one.runs and (one.deleted or one.place not in IN_PLAY):
                self.pass_turn(one)
