"""Plain: what types cannot say about `[broker.rq]`."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from broker.config.settings import PlainQueues
from broker.config.table import Reader
from broker.names import nearest
from broker.runtimes import python

SERIALIZERS = ("pickle", "json")


def check_plain_queues(reader: Reader, plain: PlainQueues, functions: Collection[str], root: Path) -> None:
    """Note what is wrong with the names of the queues, and with the serializer."""
    place = "broker.rq.queues"
    for name in plain.queues:
        shown = reader.show(name, place)
        function = name.partition(".")[0]
        if not name or "," in name:  # RQ writes down a worker's queues with commas between them
            reader.wrong(place, f"expected the name of a queue, without a comma, got {shown}")
        elif function in functions:
            reader.wrong(place, f"{shown} is the queue of the function {reader.show(function, place)}")
        elif plain.queues.count(name) > 1:
            reader.wrong(place, f"{shown} is named twice")
            break
    place = "broker.rq.serializer"
    if plain.serializer in SERIALIZERS:
        return
    if not re.fullmatch(r"\w+(\.\w+)+", plain.serializer):
        problem = (
            f'expected "pickle", "json" or the import path of a serializer, got {reader.show(plain.serializer, place)}'
        )
        reader.wrong(place, problem, nearest(plain.serializer, SERIALIZERS))
    elif problem := python.problem(plain.serializer, root):
        reader.wrong(place, reader.redact(problem, place))
    elif not python.defines(plain.serializer, root):
        module, _, name = plain.serializer.rpartition(".")
        reader.wrong(place, reader.redact(f"there is no {name} in {module}", place))
