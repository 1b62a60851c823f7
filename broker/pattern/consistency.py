"""Consistency: fields that run through one array have to be satisfied by one and the same element of it.

The rule is that of EventBridge's matcher (https://github.com/aws/event-ruler, "Matching JSON arrays"): for
`{"users": {"name": ["ann"], "role": ["admin"]}}` it is not enough that one user is called ann and another is admin.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import product
from operator import or_
from typing import Any

from broker.pattern.operators import Choice
from broker.pattern.path import Path


class _Node:
    """A container or value of the event, and which fields (bits, numbered by name) have values there."""

    __slots__ = ("children", "hits", "hits_below", "seen", "seen_below")

    def __init__(self) -> None:
        self.children: dict[str | int, _Node] = {}
        self.hits = 0
        """Fields with a value right here that they ask for."""
        self.seen = 0
        """Fields that may be absent and have any value right here."""
        self.hits_below = 0
        self.seen_below = 0


def satisfied(fields: Sequence[tuple[Path, Choice]], record: dict[str, Any]) -> bool:
    """Return whether one choice of array elements satisfies all fields; they are sorted by name.

    The time grows with the size of the event, not with a power of it: each element is asked once.
    """
    root = _Node()
    for number, (path, choice) in enumerate(fields):
        for location, value in path.leaves(record):
            hit = choice.test is not None and choice.test(value)
            if hit or choice.absent:
                _mark(root, location, hit << number, choice.absent << number)
    found = root.hits | root.hits_below
    required = absent = 0
    either = []
    for number, (_, choice) in enumerate(fields):
        bit = 1 << number
        if not choice.absent:
            required |= bit
        elif bit & found:
            either.append(bit)
        else:
            absent |= bit
    for wanted in product((True, False), repeat=len(either)):
        more = reduce(or_, (bit for bit, there in zip(either, wanted, strict=True) if there), 0)
        if _solve(root, required | more, absent | (reduce(or_, either, 0) & ~more)):
            return True
    return False


def _mark(root: _Node, location: tuple[str | int, ...], hits: int, seen: int) -> None:
    node = root
    for step in location:
        node.hits_below |= hits
        node.seen_below |= seen
        if (child := node.children.get(step)) is None:
            child = node.children[step] = _Node()
        node = child
    node.hits |= hits
    node.seen |= seen


def _solve(node: _Node, required: int, absent: int) -> bool:
    """Return whether the part of the event at `node` has all `required` fields and none of the `absent` ones."""
    required &= ~node.hits
    if absent & node.seen or required & ~node.hits_below:
        return False
    if not node.children:
        return True
    if isinstance(next(iter(node.children)), int):
        return _solve_array(node, required, absent)
    return _solve_object(node, required, absent)


def _solve_array(node: _Node, required: int, absent: int) -> bool:
    # An element is chosen by the first field, in the order of names, that needs one. To a field before it that has
    # to be absent, all elements count; to one after it, the chosen element only.
    first = required & -required
    before = absent & (first - 1) if first else absent
    if before & node.seen_below:
        return False
    return not required or any(
        _solve(child, required, absent & ~before)
        for child in node.children.values()
        if not required & ~(child.hits | child.hits_below)
    )


def _solve_object(node: _Node, required: int, absent: int) -> bool:
    # A field usually lies under one key. Keys with dots can give it several (`a.b` and, in `a`, `b`): one has to do.
    children = list(node.children.values())
    bits = _bits(required)
    options = [[place for place, child in enumerate(children) if bit & (child.hits | child.hits_below)] for bit in bits]
    for places in product(*options):
        parts = [0] * len(children)
        for bit, place in zip(bits, places, strict=True):
            parts[place] |= bit
        if all(_solve(child, part, absent) for child, part in zip(children, parts, strict=True)):
            return True
    return False


def _bits(mask: int) -> list[int]:
    return [1 << number for number in range(mask.bit_length()) if mask >> number & 1]
