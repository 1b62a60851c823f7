"""Events and ids of files."""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources._file.event import Fingerprint, event_id, file_event, read_id, timestamp

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
MARK = Fingerprint(device=1, inode=2, size=3, mtime=1_700_000_000_123_456_789, ctime=1_700_000_001_000_000_000)
NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name).map(os.fsdecode)
NUMBERS = st.integers(0, 2**63)


def event(path, mark=MARK, change="created"):
    return file_event("inbox", "/data/inbox", path, mark, change, now=NOW)


def test_an_event_says_all_about_its_file():
    assert event("orders/a b.csv").record() == {
        "specversion": "1.0",
        "id": "orders/a%20b.csv:3:1700000000123456789:1700000001000000000",
        "source": "inbox",
        "type": "file.created",
        "subject": "orders/a b.csv",
        "time": "2023-11-14T22:13:20.123456Z",
        "data": {
            "path": "/data/inbox/orders/a b.csv",
            "name": "a b.csv",
            "folder": "orders",
            "size": 3,
            "mtime": "2023-11-14T22:13:20.123456Z",
        },
    }


@given(path=NAMES, size=NUMBERS, mtime=st.integers(-(2**62), 2**62))
def test_the_file_can_be_told_from_its_id_whatever_its_name(path, size, mtime):
    mark = MARK._replace(size=size, mtime=mtime)
    made = event_id(path, mark, "created")
    assert made.isascii() and made.isprintable()
    assert read_id(made) == (path, size, mtime)


@given(path=NAMES)
def test_any_name_survives_json_and_its_bytes_can_be_had_back(path):
    data = json.loads(event(path).encode())["data"]
    name = b"/data/inbox/" + os.fsencode(path)
    assert os.fsencode(data["path"]) == name
    if "path_base64" in data:
        assert base64.b64decode(data["path_base64"]) == name
    else:
        assert data["path"].encode() == name


@given(path=NAMES)
def test_a_subject_is_always_unicode(path):
    event(path).subject.encode()


def test_ids_of_hosts_agree_although_device_and_inode_differ():
    assert event_id("a", MARK, "created") == event_id("a", MARK._replace(device=9, inode=9), "created")


@pytest.mark.parametrize("other", [{"size": 4}, {"mtime": 1}, {"ctime": 1}])
def test_another_content_has_another_id(other):
    assert event_id("a", MARK, "created") != event_id("a", MARK._replace(**other), "created")


def test_a_deletion_has_an_id_of_its_own_and_happens_now():
    gone = event("a", change="deleted")
    assert gone.id != event("a").id
    assert gone.time == "2026-11-23T08:00:00.000000Z"
    assert gone.data["mtime"] == "2023-11-14T22:13:20.123456Z"


def test_times_that_no_calendar_has_are_left_out():
    assert timestamp(0) == "1970-01-01T00:00:00.000000Z"
    assert timestamp(-1_000_000_000) == "1969-12-31T23:59:59.000000Z"
    assert timestamp(2**63 - 1).startswith("2262")
    assert timestamp(400_000_000_000 * 10**9) is None
    assert "time" not in event("a", MARK._replace(mtime=400_000_000_000 * 10**9)).record()


@pytest.mark.parametrize("text", ["", "a", "a:1:2", "a:b:c:d"])
def test_what_is_no_id_of_a_file_is_refused(text):
    with pytest.raises(ValueError):
        read_id(text)


def test_contents_are_the_same_when_size_and_mtime_are():
    assert MARK.same_content(MARK._replace(ctime=9), inodes=True)
    assert not MARK.same_content(MARK._replace(size=9), inodes=True)
    assert not MARK.same_content(MARK._replace(mtime=9), inodes=True)


def test_inodes_count_on_one_device_of_a_file_system_that_keeps_them():
    assert not MARK.same_content(MARK._replace(inode=9), inodes=True)
    assert MARK.same_content(MARK._replace(inode=9), inodes=False)
    assert MARK.same_content(MARK._replace(inode=9, device=9), inodes=True)
