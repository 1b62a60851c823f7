"""Figures: what was measured, and what several repetitions of it say. Pure."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One value of one repetition."""

    scenario: str
    who: str
    what: str
    """What was measured; a column of the scenario's table."""
    value: float
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Absence:
    """Somebody who could not be measured, and why."""

    scenario: str
    who: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What the repetitions of a figure say."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Iterable[float]) -> Spread:
    """Return median and range. Raises ValueError when there are none."""
    found = sorted(values)
    if not found:
        raise ValueError("no values")
    return Spread(median=statistics.median(found), low=found[0], high=found[-1], count=len(found))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that at least `share` (0 to 1) of all do not exceed: the nearest rank, never between two.

    Raises ValueError when there are none.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(figures: Iterable[Figure]) -> dict[tuple[str, str, str, str], Spread]:
    """Return the spread of each (scenario, who, what, unit), in the order of their first figures."""
    values: dict[tuple[str, str, str, str], list[float]] = {}
    for one in figures:
        values.setdefault((one.scenario, one.who, one.what, one.unit), []).append(one.value)
    return {key: spread(found) for key, found in values.items()}
