"""Pool: the warm environments of one worker: starts them on demand, gives them attempts, ends idle ones."""

from __future__ import annotations

import selectors
import time
from collections import deque
from typing import TYPE_CHECKING

from broker.errors import FunctionError, InitFailed
from broker.runtime.environment import Environment
from broker.runtime.messages import Died, Done, Lines, Message, Ready
from broker.runtime.nursery import Nursery
from broker.runtime.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from broker.attempt import Attempt
    from broker.function import Function

AHEAD = 0.004
"""Seconds of work that an environment may be sent ahead, so that fast functions need not wait for the worker."""

DEEPEST = 256
"""How many invocations may be sent ahead at the most."""

GROW_AFTER = 0.01
"""Seconds for which a function's environments must have been full before it gets another."""


class Place:
    """One environment in the pool, with the attempts it has been given, in order."""

    __slots__ = ("attempts", "cold", "crew", "descriptors", "environment", "idle_since", "init_ms", "retired")

    def __init__(self, environment: Environment, crew: Crew) -> None:
        """Take a newly started environment, and those of the same function and version."""
        self.environment = environment
        self.crew = crew
        self.descriptors: tuple[int, ...] = (environment.control, environment.output)
        """Watched for reading, the first also for writing; none when it has died, and its numbers are others'."""
        self.attempts: dict[str, Attempt] = {}
        self.idle_since: float | None = time.monotonic()
        self.init_ms: float | None = None
        self.cold = True
        self.retired = False
        """It gets nothing more; it ends when what it has is done."""


class Crew:
    """The environments of one function in this worker, and what is known of its pace."""

    def __init__(self, function: Function) -> None:
        """Take the function."""
        self.function = function
        self.places: list[Place] = []
        self.pace: float | None = None
        """Seconds that an attempt takes, as a moving average; None before the first has ended."""
        self.full_since: float | None = None
        """When more was waiting than its environments could take."""
        self.hold_until = 0.0
        """No new environment before this moment: the last ones died in init."""
        self.init_failures = 0

    @property
    def depth(self) -> int:
        """How many attempts one environment may hold."""
        if self.function.batch or self.pace is None or self.pace > AHEAD:
            return 1
        return max(1, min(DEEPEST, int(AHEAD / max(self.pace, 1e-6))))

    def learn(self, seconds: float) -> None:
        """Take into account how long an attempt took."""
        self.pace = seconds if self.pace is None else self.pace * 0.9 + seconds * 0.1


class Pool:
    """The environments of one worker. Single-threaded: all is called from the worker's loop."""

    def __init__(self, nursery: Nursery, selector: selectors.BaseSelector, staging: Staging, *, capacity: int) -> None:
        """Watch the environments' files in `selector`, with a function as `data` that returns messages."""
        self._nursery = nursery
        self._staging = staging
        self._selector = selector
        self._capacity = capacity
        self._crews: dict[tuple[str, str], Crew] = {}
        """Name and version of a function -> its environments."""
        self._places: dict[Environment, Place] = {}
        self._unflushed: set[Place] = set()
        self._backlog: deque[Attempt] = deque()
        """Attempts whose environment died before it began them; they go first."""

    def crew(self, function: Function) -> Crew:
        """Return what the pool has of a function."""
        crew = self._crews.get(function.key)
        if crew is None:
            crew = self._crews[function.key] = Crew(function)
        return crew

    @property
    def running(self) -> int:
        """How many attempts have not ended."""
        return sum(len(place.attempts) for place in self._places.values()) + len(self._backlog)

    def attempts(self) -> Iterator[Attempt]:
        """Yield the attempts that have not ended."""
        for place in self._places.values():
            yield from place.attempts.values()
        yield from self._backlog

    def running_attempts(self) -> Iterator[Attempt]:
        """Yield the attempts that environments are at now; those sent ahead wait behind them."""
        for place in self._places.values():
            for attempt in place.attempts.values():
                if attempt.unflushed_since is None and attempt.lines:
                    attempt.unflushed_since = attempt.given
                yield attempt
                break

    def vacancies(self, function: Function, now: float) -> int:
        """Return how many attempts the function could be given now, with the new environment it may get."""
        crew = self.crew(function)
        waiting = sum(1 for attempt in self._backlog if attempt.function.name == function.name)
        room = self._room(crew, now)
        return max(0, (1 if room <= 0 and self._may_wait(crew, now) else room) - waiting)

    def give(self, attempt: Attempt, now: float) -> None:
        """Send an attempt to the environment with the least to do; start one when there is none, or all are busy."""
        crew = self.crew(attempt.function)
        for one in crew.places:  # code that was changed a moment ago must not run once more as it was
            if one.idle_since is not None and not one.retired and one.environment.stale():
                self._retire(one)
        open_places = [one for one in crew.places if not one.retired]
        place = min(open_places, key=lambda one: len(one.attempts), default=None)
        if (place is None or len(place.attempts) >= crew.depth) and self._may_grow(crew, now):
            if len(self._places) >= self._capacity and (idle := self._idle_elsewhere(crew)) is not None:
                self._retire(idle)
            place = self._start(crew)
        if place is None:
            self._backlog.append(attempt)
            if self._staging.ready(attempt.function, now):
                self._ask_for_room()
            return
        if place.cold:
            place.cold = False
            attempt.cold = -1.0  # the figure comes with Ready
        place.idle_since = None
        place.attempts[attempt.id] = attempt
        attempt.given = now
        place.environment.send(attempt.id, attempt.number, attempt.payload(), attempt.client)
        self._unflushed.add(place)

    def flush(self) -> None:
        """Write what was given to the environments."""
        for place in self._unflushed:
            place.environment.flush()
            self._watch(place)
        self._unflushed.clear()

    def note_demand(self, function: Function, *, more: bool, now: float) -> None:
        """Learn whether more of a function waits than its environments can take."""
        crew = self.crew(function)
        if not more:
            crew.full_since = None
        elif crew.full_since is None:
            crew.full_since = now

    def keep(self, live: Collection[tuple[str, str]]) -> None:
        """Let the environments of versions that are not live any more end, after what they have been given."""
        for key, crew in list(self._crews.items()):
            if key not in live:
                for place in crew.places:
                    self._retire(place)
                if not crew.places:
                    del self._crews[key]

    def read_nursery(self) -> list[tuple[Place, Message]]:
        """Read the exits of environments."""
        ended = [self._places[one] for one in self._nursery.read() if one in self._places]
        return self._each(ended, lambda place: place.environment.read())

    def tick(self, now: float) -> list[tuple[Place, Message]]:
        """Enforce limits, and end what is idle or stale."""
        due = [
            place
            for place in self._places.values()
            if place.environment.deadline is not None and place.environment.deadline <= now
        ]
        messages = self._each(due, lambda place: place.environment.tick(now))
        for place in list(self._places.values()):
            if place.retired:
                continue
            unused = place.idle_since is not None and now - place.idle_since > place.environment.function.keep_warm
            if unused or place.environment.stale():
                self._retire(place)
        return messages

    def redeal(self, now: float) -> None:
        """Give out again what environments that died had not begun."""
        for _ in range(len(self._backlog)):
            attempt = self._backlog.popleft()
            if self._room(self.crew(attempt.function), now) > 0:
                self.give(attempt, now)
            else:
                self._backlog.append(attempt)
        self.flush()

    def next_tick(self, now: float) -> float:
        """Return the seconds until `tick` has something to do."""
        deadlines = [place.environment.deadline for place in self._places.values()]
        soonest = min((one for one in deadlines if one is not None), default=now + 1)
        holds = (self.crew(attempt.function).hold_until for attempt in self._backlog)
        ahead = (hold for hold in holds if hold > now)  # others wait for an environment, which tells by itself
        return max(0.0, min([soonest, *ahead, now + 1]) - now)

    def settle(self, place: Place, message: Message) -> Attempt | None:
        """Take notice of a message; return the attempt that has ended with it.

        Of a Died the unstarted attempts are kept for another environment, but when it died in init they have failed
        too: the first is returned, and the others follow when they are given out again.
        """
        crew = place.crew
        if isinstance(message, Ready):
            place.init_ms = message.init_ms
            crew.init_failures = 0
            for attempt in place.attempts.values():
                if attempt.cold is not None:
                    attempt.cold = message.init_ms
        elif isinstance(message, Done):
            return self._finish(crew, place, message)
        elif isinstance(message, Died):
            return self._bury(crew, place, message)
        return None

    def attempt_of(self, place: Place, message: Lines) -> Attempt | None:
        """Return the attempt that printed the lines; None when they were printed outside any."""
        if message.invocation is not None:
            return place.attempts.get(message.invocation)
        return next(iter(place.attempts.values()), None)

    def kill(self, invocation: str, why: FunctionError) -> bool:
        """End the environment that runs an invocation; False when none does."""
        for place in self._places.values():
            for attempt in place.attempts.values():
                if any(one.id == invocation for one in attempt.claimed):
                    place.environment.kill(why)
                    return True
        return False

    def drain(self) -> list[Attempt]:
        """Return and forget the attempts that no environment has begun for want of one."""
        attempts = list(self._backlog)
        self._backlog.clear()
        return attempts

    def close(self) -> None:
        """End every environment."""
        for place in list(self._places.values()):
            self._unwatch(place)
        self._staging.close()
        self._nursery.close()
        self._places.clear()

    def _finish(self, crew: Crew, place: Place, done: Done) -> Attempt | None:
        now = time.monotonic()
        attempt = place.attempts.pop(done.invocation, None)
        crew.learn(done.duration_ms / 1000)
        following = next(iter(place.attempts.values()), None)
        if following is not None:
            following.given = now
        else:
            place.idle_since = now
            if place.retired:
                place.environment.stop()
        return attempt

    def _room(self, crew: Crew, now: float) -> int:
        """Return how many attempts the crew's environments can take now, or the new one that it may get: that one 1."""
        free = sum(crew.depth - len(place.attempts) for place in crew.places if not place.retired)
        return 1 if free <= 0 and self._may_grow(crew, now) else free

    def _may_grow(self, crew: Crew, now: float) -> bool:
        places = [place for place in crew.places if not place.retired]
        if now < crew.hold_until or not self._staging.ready(crew.function, now):
            return False
        if crew.function.concurrency is not None and len(places) >= crew.function.concurrency:
            return False
        if places and (crew.full_since is None or now - crew.full_since < GROW_AFTER * len(places)):
            return False
        if any(place.init_ms is None for place in places):
            return False  # one at a time: the last one is still starting
        return len(self._places) < self._capacity or self._idle_elsewhere(crew) is not None

    def _may_wait(self, crew: Crew, now: float) -> bool:
        """Whether an attempt may wait here for room: of a function that has no environment and could have one."""
        started = any(not place.retired for place in crew.places)
        return now >= crew.hold_until and not started and self._staging.ready(crew.function, now)

    def _idle_elsewhere(self, crew: Crew) -> Place | None:
        """Return the environment of any other function that has been idle longest."""
        idle = [
            place
            for place in self._places.values()
            if place.idle_since is not None and not place.retired and place not in crew.places
        ]
        return min(idle, key=lambda place: place.idle_since or 0, default=None)

    def _ask_for_room(self) -> None:
        """Let the function that has most environments give up one, for one that has none and work to do."""
        richest = max(self._crews.values(), key=lambda other: sum(not place.retired for place in other.places))
        open_places = [place for place in richest.places if not place.retired]
        if len(open_places) > 1:
            self._retire(min(open_places, key=lambda place: len(place.attempts)))

    def _start(self, crew: Crew) -> Place:
        stage = self._staging.of(crew.function)
        if isinstance(stage, str):
            environment = self._nursery.refuse(crew.function, InitFailed(stage))
        else:
            environment = self._nursery.start(crew.function, stage)
        place = Place(environment, crew)
        self._places[environment] = place
        crew.places.append(place)
        if crew.full_since is not None:  # still full, as far as is known; the next one is not started before a while
            crew.full_since = time.monotonic()
        read = self._reader(place)
        for descriptor in place.descriptors:
            self._selector.register(descriptor, selectors.EVENT_READ, read)
        return place

    def _reader(self, place: Place) -> Callable[[], list[tuple[Place, Message]]]:
        def read() -> list[tuple[Place, Message]]:
            if place.environment.wants_write:
                place.environment.flush()
            messages = place.environment.read()
            self._watch(place)
            return [(place, message) for message in messages]

        return read

    def _watch(self, place: Place) -> None:
        """Watch for room to write only while there is something to write."""
        environment = place.environment
        if not place.descriptors:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if environment.wants_write else 0)
        key = self._selector.get_key(place.descriptors[0])
        if key.events != events:
            self._selector.modify(key.fd, events, key.data)

    def _unwatch(self, place: Place) -> None:
        for descriptor in place.descriptors:
            self._selector.unregister(descriptor)
        place.descriptors = ()

    def _each(self, places: Iterable[Place], ask: Callable[[Place], list[Message]]) -> list[tuple[Place, Message]]:
        return [(place, message) for place in places for message in ask(place)]

    def _retire(self, place: Place) -> None:
        place.retired = True
        if not place.attempts:
            place.environment.stop()

    def _bury(self, crew: Crew, place: Place, died: Died) -> Attempt | None:
        self._unwatch(place)
        self._places.pop(place.environment, None)
        if place in crew.places:
            crew.places.remove(place)
        self._unflushed.discard(place)
        current = place.attempts.pop(died.current) if died.current in place.attempts else None
        unstarted = list(place.attempts.values())
        place.attempts.clear()
        if died.init and unstarted and not place.retired:
            crew.init_failures += 1
            crew.hold_until = time.monotonic() + min(30.0, 0.25 * 2.0 ** min(crew.init_failures, 8))
            current, unstarted = unstarted[0], unstarted[1:]
        self._backlog.extend(unstarted)
        return current
