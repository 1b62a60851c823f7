"""HTTP/1.1 requests, cut out of what a socket delivers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.runtime.inside.http1 import BadRequest, RequestReader, response

CHUNKED = (
    b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Kind\r\n\r\n"
    b"4\r\nwiki\r\n6;note=1\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nX-Kind: a:b\r\n\r\n"
)
PLAIN = b"POST /b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
BARE = b"GET /c HTTP/1.1\r\nConnection: close\r\n\r\n"


@given(cuts=st.lists(st.integers(0, len(CHUNKED + PLAIN + BARE))), order=st.permutations([CHUNKED, PLAIN, BARE]))
def test_requests_are_the_same_however_they_come(cuts, order):
    text = b"".join(order)
    reader, found = RequestReader(100), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(text)], strict=True):
        found += reader.feed(text[start:end])
    by_path = {request.path: request for request in found}
    assert [request.path for request in found] == [one.split()[1].decode() for one in order]
    assert by_path["/a"].body == b"wikipedia in \r\n\r\nchunks."
    assert by_path["/a"].headers["x-kind"] == "a:b"
    assert (by_path["/b?c=d"].method, by_path["/b?c=d"].body) == ("POST", b"hello")
    assert (by_path["/c"].body, by_path["/c"].keeps, by_path["/a"].keeps) == (b"", False, True)
    assert reader.unfinished is None


def test_a_body_beyond_the_limit_is_measured_and_not_kept():
    reader = RequestReader(3)
    [request] = reader.feed(PLAIN)
    assert (request.body, request.length) == (b"hel", 5)
    [request] = reader.feed(CHUNKED)
    assert (request.body, request.length) == (b"wik", 24)


def test_a_request_that_stops_half_way_is_known():
    reader = RequestReader(100)
    assert reader.feed(CHUNKED[:-9]) == []
    assert reader.unfinished is not None
    assert reader.unfinished.path == "/a"


def test_who_waits_for_continue_is_known():
    reader = RequestReader(100)
    reader.feed(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
    assert reader.expecting
    assert len(reader.feed(b"x")) == 1
    assert not reader.expecting


@pytest.mark.parametrize(
    "text",
    [
        b"hello\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"x" * 70_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 70_000,
    ],
)
def test_what_is_no_request_is_refused(text):
    with pytest.raises(BadRequest):
        RequestReader(100).feed(text)


def test_a_response_tells_its_length():
    assert response("200 OK", b"{}", headers={"X": "y"}) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nX: y\r\n\r\n{}"
    )
