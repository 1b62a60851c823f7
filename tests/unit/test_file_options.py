"""The options of a file source: mistakes in them, and what they plan."""

from __future__ import annotations

import os

import msgspec
import pytest

from broker.config.table import quantity
from broker.quantity import Duration
from broker.source import find
from sources._file import folder as _file_folder
from sources._file.folder import is_remote
from sources.file import File


def file(**options):
    return File(**{"path": "inbox", **options})


def test_a_path_is_all_that_must_be_said(tmp_path):
    options = msgspec.convert({"path": "inbox"}, find("file", tmp_path), dec_hook=quantity)
    assert options.check(tmp_path) == []
    assert options.plan(tmp_path) == ["watches inbox/* (inotify, scan every 10s)"]


def test_the_plan_names_the_files_the_way_and_what_becomes_of_them(tmp_path):
    options = file(include=("*.csv", "*.txt"), recursive=True, watch="poll", scan=Duration(60), on_done="move")
    assert options.plan(tmp_path) == [
        "watches inbox/**/*.csv, inbox/**/*.txt (polled, scan every 1m)",
        "moves files to done or failed when their functions have ended",
    ]
    assert "deletes files" in file(on_done="delete").plan(tmp_path)[1]


def test_a_file_cannot_be_watched_as_a_folder(tmp_path):
    (tmp_path / "inbox").write_text("")
    assert file().check(tmp_path) == [f"path: {tmp_path}/inbox is not a folder"]


def test_a_folder_that_is_not_there_yet_is_no_mistake(tmp_path):
    assert file(create=False).check(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"path": ""}, "path is empty"),
        ({"include": ()}, "no file would count"),
        ({"include": ("*.{a,b}",)}, 'include: the pattern "*.{a,b}" has alternatives'),
        ({"include": ("orders/*.csv",)}, "needs recursive = true"),
        ({"exclude": ("/a",)}, 'exclude: the pattern "/a" begins with a slash'),
        ({"unfinished": ("",)}, 'unfinished: the pattern "" is empty'),
        ({"on_created": False, "on_modified": False}, "nothing would be an event"),
        ({"on_done": "move", "done": "."}, "done is the watched folder itself"),
        ({"on_done": "delete", "failed": "../inbox"}, "failed is the watched folder itself"),
        ({"scan": Duration(0)}, "scan must be longer"),
    ],
)
def test_a_mistake_is_named(tmp_path, options, says):
    assert [says in problem for problem in file(**options).check(tmp_path)] == [True]


def test_all_mistakes_are_named_at_once(tmp_path):
    assert len(file(path="", include=(), scan=Duration(0)).check(tmp_path)) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_a_mistake(tmp_path):
    (tmp_path / "inbox").mkdir(mode=0)
    assert "may not be read" in file().check(tmp_path)[0]


def test_two_sources_cannot_move_the_same_files(tmp_path):
    assert set(file(on_done="move").claims(tmp_path)) & set(file(path="./inbox/", on_done="delete").claims(tmp_path))
    assert file().claims(tmp_path) == []
    assert not {*file(on_done="move", include=("a",)).claims(tmp_path)} & {*file(on_done="move").claims(tmp_path)}


def test_file_systems_that_others_change_unseen_are_remote(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        "22 21 0:40 / /mnt/a\\040share rw shared:2 master:1 - nfs4 server:/x rw\n"
        "23 22 0:41 / /mnt/a\\040share/local rw - tmpfs tmpfs rw\n"
        "24 21 0:42 / /mnt/bucket rw - fuse.rclone bucket: rw\n"
        "25 21 0:43 / /mnt/stick rw - fuseblk /dev/sdb1 rw\n"
    )
    monkeypatch.setattr(_file_folder, "_MOUNTS", mounts)
    remote = ["/mnt/a share", "/mnt/a share/inbox", "/mnt/bucket/x"]
    local = ["/", "/mnt", "/mnt/a share/local/x", "/mnt/stick", "/mnt/a shared", "/mnt/buckets"]
    assert [path for path in remote + local if is_remote(path)] == remote


def test_without_a_list_of_mounts_everything_is_local(tmp_path, monkeypatch):
    monkeypatch.setattr(_file_folder, "_MOUNTS", tmp_path / "nowhere")
    assert not is_remote("/")
