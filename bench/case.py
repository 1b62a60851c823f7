"""Case: one thing to measure once; and the room in which cases are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.figures import Absence, Figure
from bench.venvs import Venvs

Outcome = list[Figure | Absence]


@dataclass(frozen=True, kw_only=True)
class Room:
    """How to measure."""

    quick: bool
    venvs: Venvs

    def scale(self, long: int, quick: int) -> int:
        """Return one of two counts."""
        return quick if self.quick else long


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one repetition runs: one contender in one scenario."""

    scenario: str
    who: str
    measure: Callable[[], Outcome]
