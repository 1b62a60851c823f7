"""What a program printed, told apart into log and result."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.runtime.inside.stdout import Stdout
from broker.runtime.inside.wire import MAX_RESULT


def told(*pieces: bytes) -> tuple[bytes, bool, bytes]:
    """Return the log, and result or error."""
    stdout = Stdout()
    log = b"".join(stdout.feed(piece) for piece in pieces)
    ok, body, rest = stdout.end()
    return log + rest, ok, body


@pytest.mark.parametrize(
    ("text", "result", "log"),
    [
        (b"", b"null", b""),
        (b"hello\n", b"null", b"hello\n"),
        (b'{"a": 1}\n', b'{"a": 1}', b""),
        (b'one\ntwo\n{"a": 1}', b'{"a": 1}', b"one\ntwo\n"),
        (b'one\n{"a": 1}\n\n \n', b'{"a": 1}', b"one\n"),
        (b'{"a": 1}\ntwo\n', b"null", b'{"a": 1}\ntwo\n'),
        (b"[INFO] done\n", b"null", b"[INFO] done\n"),
        (b"one\n42\n", b"42", b"one\n42\n"),
        (b'"text"', b'"text"', b'"text"'),
        (b'{\n "a": 1\n}\n', b'{\n "a": 1\n}', b'{\n "a": 1\n}\n'),
        (b"[1,\n2]\n", b"[1,\n2]", b"[1,\n2]\n"),
        (b"note\n{\n}\n", b"null", b"note\n{\n}\n"),
        ("käse\n{}".encode(), b"{}", "käse\n".encode()),
    ],
)
def test_the_last_line_is_the_result_and_the_rest_is_log(text, result, log):
    assert told(text) == (log, True, result)
    assert told(*(text[at : at + 1] for at in range(len(text)))) == (log, True, result)


@pytest.mark.parametrize("text", [b'{"a": NaN}', b"x\nNaN\n", b"-Infinity", b'[1,\n{"a": NaN}\n]'])
def test_what_is_json_but_for_its_numbers_is_an_error(text):
    _, ok, body = told(text)
    assert (ok, json.loads(body)["errorType"]) == (False, "Runtime.MarshalError")


def test_too_long_a_result_is_an_error_and_takes_no_more_memory_than_one():
    stdout = Stdout()
    assert stdout.feed(b'log\n["') == b"log\n"
    for _ in range(200):
        assert stdout.feed(b"x" * 100_000) == b""
    assert len(stdout._line) <= MAX_RESULT + 1
    ok, body, _ = stdout.end()
    assert (ok, json.loads(body)["errorType"]) == (False, "Function.ResponseSizeTooLarge")


def test_a_long_log_does_not_hide_the_result():
    log, ok, body = told(*[b"line\n" * 20_000] * 100, b'{"a"', b":1}\n")
    assert (len(log), ok, body) == (10_000_000, True, b'{"a":1}')


lines = st.sampled_from([b"{", b"}", b"[1]", b'{"a":1}', b"text", b"", b" ", b"7", b"[x", b"\r"])


@given(text=st.lists(lines).map(b"\n".join), cuts=st.lists(st.integers(0, 60)))
def test_nothing_is_lost_or_said_twice_however_it_comes(text, cuts):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    log, ok, body = told(*(text[a:b] for a, b in itertools.pairwise(edges)))
    assert (log, ok, body) == told(text)
    assert ok
    assert log == text or (text.startswith(log) and text[len(log) :].strip() == body)
