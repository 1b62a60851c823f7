"""Frames come out as they went in, however the socket cuts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.runtime.inside.frames import MAX_FRAME, FrameError, FrameReader, frame, marker, marker_prefix

HEADERS = st.binary(min_size=1, max_size=50).filter(lambda header: b"\n" not in header)


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=200)), max_size=20), st.lists(st.integers(1, 400)))
def test_frames_come_out_as_they_went_in(frames: list[tuple[bytes, bytes]], sizes: list[int]) -> None:
    stream = b"".join(frame(*one) for one in frames)
    reader = FrameReader()
    got: list[tuple[bytes, bytes]] = []
    at = 0
    for size in sizes:
        got += reader.feed(stream[at : at + size])
        at += size
    got += reader.feed(stream[at:])
    assert got == frames


def test_a_large_frame_in_many_pieces_takes_linear_time() -> None:
    stream = frame(b"{}", b"x" * (64 << 20))
    reader = FrameReader()
    got = [one for at in range(0, len(stream), 4096) for one in reader.feed(stream[at : at + 4096])]
    assert [(header, len(body)) for header, body in got] == [(b"{}", 64 << 20)]


@pytest.mark.parametrize(
    "data", [MAX_FRAME.to_bytes(4, "big"), b"\xff\xff\xff\xff", b"\0\0\0\x02{}", b"GET / HTTP/1.1\r\n"]
)
def test_what_is_not_a_frame_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(data)


def test_a_marker_begins_with_its_prefix_and_is_written_in_one_piece() -> None:
    name = b"0" * 32
    assert marker(b"token", name).startswith(marker_prefix(b"token"))
    assert len(marker(b"t" * 16, name)) < 512  # POSIX's least PIPE_BUF
