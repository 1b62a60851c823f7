"""Pool: the warm environments of one worker: starts them on demand, gives them attempts, ends idle ones."""

from __future__ import annotations

import selectors
import time
from collections import deque
from typing import TYPE_CHECKING

from broker.errors import FunctionError, InitFailed, Stopped
from broker.runtime.crew import Crew, Place, load
from broker.runtime.environment import Environment
from broker.runtime.messages import Died, Done, Lines, Message, Ready
from broker.runtime.nursery import Nursery
from broker.runtime.room import Room
from broker.runtime.sharing import Sharing
from broker.runtime.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from broker.attempt import Attempt
    from broker.function import Function


class Pool:
    """The environments of one worker. Single-threaded: all is called from the worker's loop."""

    def __init__(self, nursery: Nursery, selector: selectors.BaseSelector, staging: Staging, room: Room) -> None:
        """Watch the environments' files in `selector`, with a function as `data` that returns messages."""
        self._nursery = nursery
        self._staging = staging
        self._selector = selector
        self._crews: dict[tuple[str, str], Crew] = {}
        """Name and version of a function -> its environments."""
        self._places: dict[Environment, Place] = {}
        self._sharing = Sharing(room, staging, self._crews.values(), self._places.values())
        self._unflushed: set[Place] = set()
        self._backlog: deque[Attempt] = deque()
        """Attempts whose environment died before it began them, or that found none free; they go first."""

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
        free = self._sharing.free(crew, now)
        return max(0, (1 if free <= 0 and self._sharing.may_wait(crew, now) else free) - waiting)

    def is_idle(self, function: Function) -> bool:
        """Return whether one of the function's environments is ready and has nothing to do."""
        return any(not place.attempts and not place.cold for place in self.crew(function).open)

    def give(self, function: Function, attempts: Sequence[Attempt], now: float) -> None:
        """Send attempts to the environments with the least to do; start one when there is none, or all are busy."""
        crew = self.crew(function)
        for one in list(crew.open):  # code that was changed a moment ago must not run once more as it was
            if one.idle_since is not None and one.environment.imported.stale():
                one.retire()
        depth = crew.depth
        for attempt in attempts:
            place = min(crew.open, key=load, default=None)
            full = place is None or len(place.attempts) >= depth
            if full and self._sharing.may_grow(crew, now):
                place, full = self._start(crew), False
            if place is not None and not full:
                self._hand_over(place, attempt, now)
                continue
            self._backlog.append(attempt)  # of several live versions only one may have had the vacancy
            if place is None and self._staging.ready(function, now):
                self._sharing.ask_for_room(crew)

    def _hand_over(self, place: Place, attempt: Attempt, now: float) -> None:
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
                for place in list(crew.open):
                    place.retire()
                if not any(place.crew is crew for place in self._places.values()):
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
            since, crew = place.idle_since, place.crew
            unused = since is not None and now - since > crew.function.keep_warm and crew.can_spare(place)
            if unused or place.environment.imported.stale():
                place.retire()
        self._sharing.tick(now)
        return messages

    def keep_warm(self, functions: Iterable[Function], now: float) -> None:
        """Start environments of functions that are to have some whether there is work or not, and as many as fit."""
        for function in functions:
            if function.min and self._staging.ready(function, now):
                crew = self.crew(function)
                while crew.lacks() and now >= crew.hold_until and self._sharing.make_room(crew):
                    self._start(crew)

    def redeal(self, now: float) -> None:
        """Give out again what environments that died had not begun."""
        for _ in range(len(self._backlog)):
            attempt = self._backlog.popleft()
            if self._sharing.free(self.crew(attempt.function), now) > 0:
                self.give(attempt.function, [attempt], now)
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
            place.cold = False
            crew.init_succeeded()
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
            self._unwatch(place, place.descriptors)
        self._staging.close()
        self._nursery.close()
        self._places.clear()

    def _finish(self, crew: Crew, place: Place, done: Done) -> Attempt | None:
        now = time.monotonic()
        attempt = place.attempts.pop(done.invocation, None)
        crew.learn(done.duration_ms / 1000, done.cpu_us / 1e6)
        following = next(iter(place.attempts.values()), None)
        if following is not None:
            following.given = now
        else:
            place.idle_since = now
            if place.retired:
                place.environment.stop()
        return attempt

    def _start(self, crew: Crew) -> Place:
        self._sharing.make_room(crew)
        stage = self._staging.of(crew.function)
        if isinstance(stage, str):
            environment = self._nursery.refuse(crew.function, InitFailed(stage))
        else:
            environment = self._nursery.start(crew.function, stage)
        place = Place(environment, crew)
        self._places[environment] = place
        crew.open.append(place)
        self._sharing.take(crew)
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
        """Watch for room to write only while there is something to write, and for nothing where nothing more comes."""
        environment = place.environment
        if spent := environment.spent:
            self._unwatch(place, spent)
        if environment.control not in place.descriptors:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if environment.wants_write else 0)
        key = self._selector.get_key(environment.control)
        if key.events != events:
            self._selector.modify(key.fd, events, key.data)

    def _unwatch(self, place: Place, spent: Collection[int]) -> None:
        for descriptor in place.descriptors:
            if descriptor in spent:
                self._selector.unregister(descriptor)
        place.descriptors = tuple(one for one in place.descriptors if one not in spent)

    def _each(self, places: Iterable[Place], ask: Callable[[Place], list[Message]]) -> list[tuple[Place, Message]]:
        return [(place, message) for place in places for message in ask(place)]

    def _bury(self, crew: Crew, place: Place, died: Died) -> Attempt | None:
        self._unwatch(place, place.descriptors)
        self._places.pop(place.environment, None)
        if not place.retired:
            crew.open.remove(place)
        self._unflushed.discard(place)
        current = place.attempts.pop(died.current) if died.current in place.attempts else None
        unstarted = list(place.attempts.values())
        place.attempts.clear()
        if died.init and not place.retired:
            if not isinstance(died.error, Stopped):  # its init is not to blame
                crew.init_failed(time.monotonic())
            if unstarted:
                current, unstarted = unstarted[0], unstarted[1:]
        self._backlog.extend(unstarted)
        return current
