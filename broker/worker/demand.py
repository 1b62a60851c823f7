"""Demand: which functions may have something waiting, and how much of it a worker could take now."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.function import Function
    from broker.runtime.pool import Pool


class Demand:
    """What one worker knows of the queues of its functions."""

    def __init__(self, functions: Mapping[str, Function], pool: Pool) -> None:
        """Take all functions by name; each may have something waiting."""
        self.functions = functions
        self.hungry = set(functions)
        """Functions that may have something waiting."""
        self.overspent: set[str] = set()
        """Functions that wait because their budget is used up."""
        self._due: dict[str, float] = {}
        """function -> the monotonic moment at which something of it falls due."""
        self._pool = pool

    @property
    def waits(self) -> bool:
        """Whether something may be waiting that may be run."""
        return bool(self.hungry.intersection(self.functions) - self.overspent)

    def serve(self, functions: Mapping[str, Function]) -> None:
        """Have other functions from now on; each may have something waiting."""
        self.functions = functions
        self.hungry = set(functions)

    def await_all(self, due_in: Mapping[str, float], now: float) -> None:
        """Note in how many seconds something of functions falls due."""
        self._due.update((name, now + seconds) for name, seconds in due_in.items())

    def ripen(self, now: float) -> None:
        """Count those as hungry of which something has fallen due."""
        for name in [name for name, due in self._due.items() if due <= now]:
            del self._due[name]
            self.hungry.add(name)

    def moments(self) -> Iterable[float]:
        """Return the monotonic moments at which something falls due."""
        return self._due.values()

    def wants(self, room: int | None, now: float) -> list[tuple[Function, int]]:
        """Return the functions that may have something waiting and can be given it, and how much.

        `room` is how many may be begun in all; None: as many as there are.
        """
        names = (name for name in self.hungry if name in self.functions and name not in self.overspent)
        functions = (self.functions[name] for name in names)
        asked = ((function, self._pool.vacancies(function, now)) for function in functions)
        wants = [(function, vacancies) for function, vacancies in asked if vacancies > 0]
        return wants if room is None else [(function, 1) for function, _ in wants[:room]]
