"""Output becomes the same lines, of the same invocations, however the pipe cuts it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.runtime.inside.frames import LINE_BREAK, marker
from broker.runtime.output import LEAST_CHARGE, LONGEST_LINE, Output, level_of

TOKEN = "feedbeef"
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60).map(str.encode)


def gather(output: Output, chunks: list[bytes]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the lines of each name, and those after the last marker."""
    named: dict[str, list[str]] = {}
    loose: list[str] = []
    for chunk in chunks:
        for lines, name in output.feed(chunk, 0):
            loose += [line.text for line in lines]
            if name is not None:
                named[name] = loose
                loose = []
    return named, loose + [line.text for line in output.end(0)]


def lines_of(text: bytes) -> list[str]:
    parts = text.split(b"\n")
    if not parts[-1]:
        parts.pop()
    return [part.removesuffix(b"\r").decode() for part in parts]


@given(st.lists(TEXTS, max_size=8), TEXTS, st.lists(st.integers(0, 600), max_size=30))
def test_lines_belong_to_the_marker_that_follows_them(texts: list[bytes], last: bytes, cuts: list[int]) -> None:
    stream = b"".join(text + marker(TOKEN.encode(), b"%d" % n) for n, text in enumerate(texts)) + last
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[a:b] for a, b in pairwise(edges)]
    named, loose = gather(Output(TOKEN, 1 << 20), chunks)
    assert named == {str(n): lines_of(text) for n, text in enumerate(texts)}
    assert loose == lines_of(last)


@given(st.integers(1, 3), st.integers(0, 50_000), st.integers(500, 30_000))
def test_a_long_line_is_cut_between_characters(width: int, length: int, step: int) -> None:
    text = {1: "x", 2: "ä", 3: "€"}[width] * length
    stream = text.encode() + marker(TOKEN.encode(), b"a")
    named, _ = gather(Output(TOKEN, 1 << 20), [stream[at : at + step] for at in range(0, len(stream), step)])
    assert "".join(named["a"]) == text
    assert all(len(line.encode()) <= LONGEST_LINE for line in named["a"])


def test_a_line_of_exactly_the_longest_length_stays_whole() -> None:
    for length, count in ((LONGEST_LINE, 1), (LONGEST_LINE + 1, 2)):
        named, _ = gather(Output(TOKEN, 1 << 20), [b"x" * length + b"\n" + marker(TOKEN.encode(), b"a")])
        assert len(named["a"]) == count


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(0, 3000), st.integers(1, 500))
def test_nothing_beyond_the_limit_is_passed_on_and_all_of_it_is_counted(
    lengths: list[int], limit: int, step: int
) -> None:
    text = b"".join(b"x" * length + b"\n" for length in lengths)
    output = Output(TOKEN, limit)
    for _ in range(2):  # each attempt has the limit to itself
        stream = text + marker(TOKEN.encode(), b"a")
        named, _ = gather(output, [stream[at : at + step] for at in range(0, len(stream), step)])
        lines = named["a"]
        if sum(max(length + 1, LEAST_CHARGE) for length in lengths) <= limit:
            assert len(lines) == len(lengths)
            continue
        notice = lines.pop()
        passed = sum(len(line) + 1 for line in lines)
        assert passed <= limit
        assert lines == [b"x".decode() * length for length in lengths[: len(lines)]]
        assert notice.endswith(f"in one attempt; {len(text) - passed} bytes dropped")


def test_what_comes_faster_than_the_rate_is_dropped_and_counted() -> None:
    output = Output(TOKEN, 1 << 20, 20_000)
    line = b"x" * 999 + b"\n"
    passed = [sum(len(lines) for lines, _ in output.feed(line * 100, second * 1000)) for second in range(4)]
    assert passed == [20, 20, 20, 20]
    [(lines, name)] = output.feed(marker(TOKEN.encode(), b"a"), 4000)
    assert name == "a"
    assert lines[-1].text == "... output cut: more than 19.5312KB in a second; 320000 bytes dropped"
    [(lines, _)] = output.feed(b"next\n" + marker(TOKEN.encode(), b"b"), 5000)
    assert [one.text for one in lines] == ["next"]


def test_a_long_line_passes_however_low_the_rate_is() -> None:
    output = Output(TOKEN, 1 << 20, 100)
    assert len(output.feed(b"x" * 5000 + b"\n", 0)[0][0]) == 1
    assert output.feed(b"x" * 15_000 + b"\n", 1000) == []
    assert len(output.feed(b"x" * 5000 + b"\n", 2000)[0][0]) == 1


def test_a_flood_of_empty_lines_is_limited_too() -> None:
    named, _ = gather(Output(TOKEN, 1 << 20), [b"\n" * (1 << 20), marker(TOKEN.encode(), b"a")])
    assert len(named["a"]) <= (1 << 20) / LEAST_CHARGE + 1


def test_what_is_over_the_limit_is_not_kept() -> None:
    output = Output(TOKEN, 100)
    for _ in range(1000):
        assert sum(len(lines) for lines, _ in output.feed(b"x" * 5000, 0)) <= 1
    assert len(output._tail) < 2 * LONGEST_LINE
    [(lines, name)] = output.feed(marker(TOKEN.encode(), b"a"), 0)
    assert name == "a"
    assert lines[-1].text == "... output cut: more than 100B in one attempt; 5000000 bytes dropped"


def test_a_line_break_marker_ends_a_line_and_nothing_else() -> None:
    stream = b"unfinished" + marker(TOKEN.encode(), LINE_BREAK) + b"next\n" + marker(TOKEN.encode(), b"a")
    named, loose = gather(Output(TOKEN, 1000), [stream])
    assert named == {"a": ["unfinished", "next"]}
    assert loose == []


def test_another_environments_marker_is_text() -> None:
    named, loose = gather(Output(TOKEN, 1000), [marker(b"other", b"a")])
    assert named == {}
    assert loose == ["\0other a"]


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("[ERROR] ValueError: x", "ERROR"),
        ("[INFO]\tx", "INFO"),
        ("[CRITICAL]", "CRITICAL"),
        ("[1, 2]", ""),
        ("[ERRORS]", ""),
        ("x [ERROR]", ""),
        ('{"level": "warn", "x": [1]}', "WARNING"),
        ('{"level": "Fatal"}', "CRITICAL"),
        ('{"level": 30}', ""),
        ('{"level": "loud"}', ""),
        ('{"a": 1}', ""),
        ("{not json", ""),
        ('{"level": "\udcff"}', ""),
        ("", ""),
    ],
)
def test_a_line_may_state_its_level(text: str, level: str) -> None:
    assert level_of(text) == level
