"""The file source on real files: what is an event, which files count, and what is remembered."""

from __future__ import annotations

import logging
import os
import socket
from datetime import UTC, datetime, timedelta

import pytest

from broker.errors import StoreUnavailable
from broker.quantity import Duration
from tests.conftest import until
from tests.file_source import NOBODY, changes, file, known, memory_folder, once, polled, process, started, subjects
from tests.source_context import RealContext, running


@pytest.fixture
def context(redis_client, tmp_path):
    return RealContext(redis_client, tmp_path, name="inbox")


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


# What an event is.


def test_a_file_closed_after_writing_is_an_event_that_says_all_about_it(context, inbox):
    with running(file(), context):
        started(context)
        (inbox / "a.csv").write_text("hello")
        once(context, ("created", "a.csv"))
    (record,) = context.records()
    found = (inbox / "a.csv").stat()
    mtime = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=found.st_mtime_ns // 1000)).isoformat()
    mtime = mtime.replace("+00:00", "Z")
    assert record["source"] == "inbox"
    assert record["time"] == mtime
    assert record["data"] == {
        "path": str(inbox / "a.csv"),
        "name": "a.csv",
        "folder": "",
        "size": 5,
        "mtime": mtime,
    }


def test_a_source_that_rests_hears_that_it_is_to_end(context, inbox, monkeypatch):
    monkeypatch.setattr("sources._file.follow.IDLE_TICK", 3600.0)
    with running(file(), context):
        started(context)  # on leaving, the source has to end


def test_an_empty_file_is_a_file(context, inbox):
    with running(file(), context):
        started(context)
        (inbox / "empty").touch()
        once(context, ("created", "empty"))


def test_a_file_moved_in_is_an_event(context, inbox, tmp_path):
    (tmp_path / "elsewhere.csv").write_text("x")
    with running(file(), context):
        started(context)
        (tmp_path / "elsewhere.csv").rename(inbox / "a.csv")
        once(context, ("created", "a.csv"))


def test_a_hard_link_made_in_the_folder_is_an_event(context, inbox, tmp_path):
    (tmp_path / "elsewhere.csv").write_text("x")
    with running(file(), context):
        started(context)
        os.link(tmp_path / "elsewhere.csv", inbox / "a.csv")
        once(context, ("created", "a.csv"))


def test_each_content_of_a_file_is_one_event(context, inbox):
    with running(file(), context):
        started(context)
        (inbox / "a").write_text("1")
        until(lambda: context.count() == 1)
        (inbox / "a").write_text("22")
        until(lambda: context.count() == 2)
        (inbox / "a").write_text("33")
        once(context, ("created", "a"), ("modified", "a"), ("modified", "a"))
    assert len({record["id"] for record in context.records()}) == 3


def test_opening_and_other_permissions_are_no_new_content(context, inbox):
    with running(file(), context):
        started(context)
        (inbox / "a").write_text("1")
        until(lambda: context.count() == 1)
        with (inbox / "a").open("ab"):
            pass
        (inbox / "a").chmod(0o600)
        (inbox / "a").read_text()
        once(context, ("created", "a"))
    with running(file(), context):
        once(context, ("created", "a"))


def test_a_deletion_is_an_event_when_asked_for(context, inbox):
    with running(file(on_deleted=True), context):
        started(context)
        (inbox / "a").write_text("123")
        until(lambda: context.count() == 1)
        (inbox / "a").unlink()
        once(context, ("created", "a"), ("deleted", "a"))
    assert context.records()[1]["data"]["size"] == 3


def test_a_deletion_is_no_event_by_default_and_forgets_the_file(context, inbox):
    with running(file(), context):
        started(context)
        (inbox / "a").write_text("1")
        until(lambda: context.count() == 1)
        until(lambda: known(context, "a"))
        (inbox / "a").unlink()
        until(lambda: not known(context, "a"))
        (inbox / "a").write_text("1")
        once(context, ("created", "a"), ("created", "a"))


def test_changes_that_are_not_asked_for_are_remembered_all_the_same(context, inbox):
    with running(file(on_created=False), context):
        (inbox / "a").write_text("1")
        until(lambda: known(context, "a"))
        (inbox / "a").write_text("22")
        once(context, ("modified", "a"))
    with running(file(on_modified=False), context):
        (inbox / "a").write_text("333")
        (inbox / "b").write_text("1")
        once(context, ("modified", "a"), ("created", "b"))


def test_a_file_renamed_in_the_folder_is_a_new_file(context, inbox):
    with running(file(on_deleted=True), context):
        started(context)
        (inbox / "a").write_text("1")
        until(lambda: context.count() == 1)
        (inbox / "a").rename(inbox / "b")
        once(context, ("created", "a"), ("created", "b"), ("deleted", "a"))


def test_a_file_moved_out_and_back_in_runs_again(context, inbox, tmp_path):
    with running(file(), context):
        started(context)
        (inbox / "a").write_text("1")
        until(lambda: context.count() == 1)
        until(lambda: known(context, "a"))
        (inbox / "a").rename(tmp_path / "a")
        until(lambda: not known(context, "a"))
        (tmp_path / "a").rename(inbox / "a")
        once(context, ("created", "a"), ("created", "a"))


# Which files count.


def test_patterns_choose_the_files(context, inbox):
    with running(file(include=("*.csv",), exclude=("draft*",)), context):
        (inbox / "first.csv").write_text("")
        for name in ("a.csv", "b.txt", "draft.csv", ".hidden.csv", "c.csv.part", "d.csv~"):
            (inbox / name).write_text("x")
        once(context, ("created", "a.csv"), ("created", "first.csv"))
    with running(file(include=("*.csv",), exclude=("draft*",)), context):  # the scan chooses as the hints did
        once(context, ("created", "a.csv"), ("created", "first.csv"))


def test_folders_below_count_only_with_recursive(context, inbox):
    (inbox / "sub").mkdir()
    (inbox / "sub/a").write_text("x")
    with running(file(), context):
        started(context)
        (inbox / "sub/b").write_text("x")
        once(context)


def test_new_folders_and_what_is_in_them_are_seen_at_once(context, inbox, tmp_path):
    with running(file(recursive=True, exclude=("skip",)), context):
        started(context)
        (inbox / "x/y").mkdir(parents=True)
        (inbox / "x/y/a").write_text("1")
        (inbox / "x/skip").mkdir()
        (inbox / "x/skip/b").write_text("1")
        (tmp_path / "tree/deep").mkdir(parents=True)
        (tmp_path / "tree/deep/c").write_text("1")
        (tmp_path / "tree").rename(inbox / "tree")
        once(context, ("created", "x/y/a"), ("created", "tree/deep/c"))
        (inbox / "x/y/d").write_text("1")
        (inbox / "tree/deep/e").write_text("1")
        once(context, *[("created", path) for path in ("x/y/a", "tree/deep/c", "x/y/d", "tree/deep/e")])
    record = next(record for record in context.records() if record["subject"] == "tree/deep/c")
    assert (record["data"]["folder"], record["data"]["name"]) == ("tree/deep", "c")


def test_a_folder_that_is_renamed_is_followed_under_its_new_name(context, inbox):
    (inbox / "old").mkdir()
    with running(file(recursive=True, on_deleted=True), context):
        started(context)
        (inbox / "old/a").write_text("1")
        until(lambda: context.count() == 1)
        (inbox / "old").rename(inbox / "new")
        until(lambda: ("created", "new/a") in changes(context))
        (inbox / "new/b").write_text("1")
        once(context, ("created", "old/a"), ("created", "new/a"), ("created", "new/b"), ("deleted", "old/a"))


NAMES = ["with space", "line\nbreak", "tab\tand 'quotes\"", "ünïcode", os.fsdecode(b"latin-\xe9\xff"), "-rf", "a:1:2:3"]


@pytest.mark.parametrize("watch", ["auto", "poll"])
def test_any_name_is_a_good_name(context, inbox, watch):
    with running(file(watch=watch, scan=Duration(0.1), settle=Duration(0.1)), context):
        for name in NAMES:
            (inbox / name).write_text("x")
        until(lambda: context.count() == len(NAMES))
    data = [record["data"] for record in context.records()]
    assert sorted(os.fsencode(one["path"]) for one in data) == sorted(os.fsencode(inbox / name) for name in NAMES)
    assert ["path_base64" in one for one in data].count(True) == 1
    with running(file(), context):
        context.stopping.wait(0.2)
    assert context.count() == len(NAMES)


def test_only_regular_files_are_files(context, inbox):
    os.mkfifo(inbox / "pipe")
    (inbox / "folder").mkdir()
    (inbox / "link").symlink_to("/etc/passwd")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(inbox / "s"))
    with running(file(), context):
        started(context)
        os.mkfifo(inbox / "another pipe")
        (inbox / "another folder").mkdir()
        (inbox / "another link").symlink_to("first")
        context.stopping.wait(0.5)  # longer than settle
        once(context)
    listening.close()


# Links.


@pytest.fixture
def linked(inbox, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("x")
    (inbox / "real").mkdir()
    (inbox / "real/a").write_text("x")
    (inbox / "done").mkdir()
    (inbox / "done/b").write_text("x")
    for name, target in {
        "to-file": "real/a",
        "to-folder": "real",
        "to-itself": "to-itself",
        "real/up": "..",
        "out-file": "../outside/secret",
        "out-folder": str(tmp_path / "outside"),
        "to-done": "done",
        "into-done": "done/b",
        "nowhere": "missing",
    }.items():
        (inbox / name).symlink_to(target)
    return inbox


def test_links_are_not_followed_unless_asked_for(context, linked):
    with running(file(recursive=True), context):
        once(context, ("created", "real/a"))


def test_links_are_followed_to_what_is_inside(context, linked):
    with running(file(recursive=True, symlinks="inside"), context):
        until(lambda: {"to-file"} < set(subjects(context)))
        context.stopping.wait(0.3)
    # The folder `real` has two names; it is entered under the one that is met first.
    assert set(subjects(context)) in ({"to-file", "real/a"}, {"to-file", "to-folder/a"})


def test_links_are_followed_anywhere_when_allowed_but_never_to_what_is_done(context, linked):
    with running(file(recursive=True, symlinks="anywhere"), context):
        until(lambda: {"to-file", "out-file", "out-folder/secret"} < set(subjects(context)))
        context.stopping.wait(0.3)
    assert set(subjects(context)) - {"real/a", "to-folder/a"} == {"to-file", "out-file", "out-folder/secret"}


def test_the_watched_folder_itself_may_be_a_link(context, inbox, tmp_path):
    inbox.rename(tmp_path / "real")
    inbox.symlink_to("real")
    with running(file(), context):
        started(context)
        (tmp_path / "real/a").write_text("x")
        once(context, ("created", "a"))
    assert context.records()[0]["data"]["path"] == str(inbox / "a")


# What is remembered.


def test_what_came_while_it_was_stopped_is_found_and_nothing_twice(context, inbox):
    (inbox / "before").write_text("1")
    with running(file(on_deleted=True), context):
        until(lambda: context.count() == 1)
        (inbox / "kept").write_text("1")
        (inbox / "changed").write_text("1")
        (inbox / "removed").write_text("1")
        until(lambda: context.count() == 4)
    context.redis.delete("test:events")
    (inbox / "changed").write_text("22")
    (inbox / "removed").unlink()
    (inbox / "new").write_text("1")
    with running(file(on_deleted=True), context):
        once(context, ("modified", "changed"), ("deleted", "removed"), ("created", "new"))


def test_scans_find_what_hints_did_not_tell(context, inbox):
    with running(polled(on_deleted=True), context):
        (inbox / "a").write_text("1")
        until(lambda: context.count() == 1)
        (inbox / "a").write_text("22")
        until(lambda: context.count() == 2)
        (inbox / "a").unlink()
        once(context, ("created", "a"), ("modified", "a"), ("deleted", "a"))


def test_nothing_is_in_the_journal_before_it_is_published(context, inbox):
    early = []

    def look(events):
        early.extend(event.subject for event in events if known(context, event.subject))

    context.on_publish = look
    with running(file(), context):
        for number in range(50):
            (inbox / f"{number}").write_text("x")
        until(lambda: context.count() == 50)
    assert early == []
    assert context.redis.hlen(f"{context.prefix}files") == 50


def test_what_could_not_be_published_is_published_by_the_next_run(context, inbox):
    trying = []
    context.on_publish = trying.append
    context.fail(StoreUnavailable())
    with running(file(), context):
        (inbox / "a").write_text("x")
        until(lambda: trying)
    assert not context.redis.exists(f"{context.prefix}files")
    context.fail(None)
    with running(file(), context):
        once(context, ("created", "a"))


def test_two_hosts_on_one_folder_publish_each_file_once(redis_client, tmp_path, inbox):
    hosts = [RealContext(redis_client, tmp_path, name="inbox") for _ in range(2)]
    with running(file(), hosts[0]), running(file(), hosts[1]):
        for number in range(300):
            (inbox / f"{number}").write_text("x")
        until(lambda: hosts[0].count() >= 300)
        hosts[0].stopping.wait(0.5)
    assert sorted(subjects(hosts[0]), key=int) == [str(number) for number in range(300)]


def test_a_folder_that_was_not_mounted_does_not_forget_its_files(context, inbox):
    journal = f"{context.prefix}files"
    here = inbox.stat().st_dev
    context.redis.hset(journal, mapping={"a": f"{here + 1} 1 1 1 1", "b": f"{here} 1 1 1 1"})
    with running(file(on_deleted=True), context):
        once(context, ("deleted", "b"))
    assert context.redis.hkeys(journal) == [b"a"]
    (inbox / "c").write_text("x")
    with running(file(), context):
        until(lambda: context.count() == 2)
    with running(file(on_deleted=True), context):  # a known file is there, so this is the right file system
        once(context, ("deleted", "b"), ("created", "c"), ("deleted", "a"))


def test_an_entry_that_cannot_be_read_is_as_none(context, inbox):
    (inbox / "a").write_text("x")
    context.redis.hset(f"{context.prefix}files", "a", "1 2 nonsense")
    with running(file(), context):
        once(context, ("created", "a"))


# The folder itself.


def test_the_folder_is_made_at_the_start(context, tmp_path):
    with running(file(path="new/inbox"), context):
        until((tmp_path / "new/inbox").is_dir)


def test_a_folder_that_is_not_to_be_made_is_waited_for(context, tmp_path, caplog):
    with running(file(create=False), context):
        until(lambda: "cannot be watched" in caplog.text)
        assert not (tmp_path / "inbox").exists()
        (tmp_path / "inbox").mkdir()
        (tmp_path / "inbox/a").write_text("x")
        once(context, ("created", "a"))


@pytest.mark.parametrize("watch", ["auto", "poll"])
def test_a_folder_that_vanishes_and_comes_back_goes_on_where_it_was(context, inbox, tmp_path, caplog, watch):
    caplog.set_level(logging.INFO)
    with running(file(on_deleted=True, watch=watch, scan=Duration(0.1), settle=Duration(0.1)), context):
        (inbox / "a").write_text("1")
        (inbox / "b").write_text("1")
        until(lambda: context.count() == 2)
        inbox.rename(tmp_path / "away")
        until(lambda: "waiting for it" in caplog.text)
        (tmp_path / "away/c").write_text("1")
        context.stopping.wait(0.6)
        assert context.count() == 2
        (tmp_path / "away").rename(inbox)
        until(lambda: "is there again" in caplog.text)
        (inbox / "d").write_text("1")
        once(context, *[("created", name) for name in "abcd"])
    assert caplog.text.count("waiting for it") == 1


def test_a_folder_that_was_replaced_is_watched_instead(context, inbox, tmp_path):
    with running(file(on_deleted=True), context):
        started(context)
        inbox.rename(tmp_path / "old")
        inbox.mkdir()
        until(lambda: ("deleted", "first") in changes(context))
        (inbox / "a").write_text("1")
        (tmp_path / "old/b").write_text("1")
        once(context, ("created", "a"), ("deleted", "first"))


# What may not be looked at.


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a source that runs as another user")
def test_what_may_not_be_read_is_logged_once_and_found_once_it_may_be(redis_client, redis_server):
    with memory_folder() as root:
        inbox = root / "inbox"
        (inbox / "shut").mkdir(parents=True)
        (inbox / "shut/a").write_text("x")
        (inbox / "shut").chmod(0)
        (inbox / "secret").write_text("x")
        (inbox / "secret").chmod(0)
        context = RealContext(redis_client, root)
        with process(redis_server.url, root, uid=NOBODY, scan=0.1, recursive=True) as running_source:
            (inbox / "open").write_text("x")
            until(lambda: subjects(context) == ["open"])
            said = ""
            while not all(text in said for text in ("secret: permission denied", "shut: [Errno 13]")):
                said += running_source.stdout.readline()
            context.stopping.wait(0.5)  # it goes on scanning, and says nothing more
            (inbox / "secret").chmod(0o644)
            (inbox / "shut").chmod(0o755)
            until(lambda: context.count() == 3)
            running_source.terminate()
            said += running_source.communicate(timeout=30)[0]
        assert running_source.returncode == 0
        assert said.count(f"{inbox}/secret: permission denied") == 1
        assert said.count(f"{inbox}/shut: [Errno 13]") == 1


def test_a_source_asks_for_nothing_while_nothing_happens(context, inbox):
    for number in range(100):
        (inbox / f"{number}").write_text("x")
    with running(file(), context):
        until(lambda: context.count() == 100)
        context.stopping.wait(0.3)
        before = context.redis.info("commandstats")
        context.stopping.wait(1.2)
        after = context.redis.info("commandstats")
    assert {name for name in after if after[name] != before.get(name)} <= {"cmdstat_info"}
