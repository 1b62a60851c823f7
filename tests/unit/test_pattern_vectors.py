"""Every answer that EventBridge, or its matcher, gave is ours too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker import pattern
from broker.errors import PatternError

VECTORS = Path(__file__).parent.parent / "data" / "event-patterns" / "patterns.jsonl"


CASES = [json.loads(line) for line in VECTORS.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_the_answer_is_that_of_eventbridge(case):
    try:
        answer = (
            "match" if pattern.compile(json.loads(case["pattern"])).matches(json.loads(case["event"])) else "nomatch"
        )
    except PatternError:
        answer = "invalid"
    assert answer == case["expect"]


def test_no_vector_got_lost():
    assert len(CASES) == 318
