"""The file source and files whose event has ended: moved or deleted, never over another file, never twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sources._file.done import put_away
from tests.conftest import until
from tests.file_source import changes, file, known, memory_folder, once, started
from tests.source_context import RealContext, running


@pytest.fixture
def context(redis_client, tmp_path):
    return RealContext(redis_client, tmp_path, name="inbox")


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def write(context, inbox, name, content="x"):
    """Write a file; return the id of its event once it is published."""
    before = context.count()
    (inbox / name).write_text(content)
    until(lambda: context.count() > before, what=f"{name} is published")
    return context.records()[-1]["id"]


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_stay_by_default_and_their_events_are_not_tracked(context, inbox):
    with running(file(), context):
        write(context, inbox, "a")
    assert context.open() == 0
    assert tree(inbox) == ["a"]


def test_a_file_is_moved_when_all_its_functions_have_ended(context, inbox):
    with running(file(on_done="move"), context):
        good, bad = write(context, inbox, "good.csv"), write(context, inbox, "bad.csv")
        context.stopping.wait(0.3)
        assert tree(inbox) == ["bad.csv", "good.csv"]
        context.end(good)
        context.end(bad, failed=1)
        until(lambda: tree(inbox) == ["done/good.csv", "failed/bad.csv"])
        until(lambda: not known(context, "good.csv") and not known(context, "bad.csv"))
        once(context, ("created", "good.csv"), ("created", "bad.csv"))


def test_a_file_is_deleted_but_not_one_that_failed(context, inbox):
    with running(file(on_done="delete"), context):
        good, bad = write(context, inbox, "good.csv"), write(context, inbox, "bad.csv")
        context.end(good)
        context.end(bad, failed=1)
        until(lambda: tree(inbox) == ["failed/bad.csv"])


def test_moving_a_file_away_is_not_its_deletion(context, inbox):
    with running(file(on_done="move", on_deleted=True), context):
        context.end(write(context, inbox, "a"))
        until(lambda: tree(inbox) == ["done/a"])
        once(context, ("created", "a"))


def test_done_files_keep_their_folder_and_are_not_watched(context, inbox):
    with running(file(on_done="move", recursive=True), context):
        (inbox / "orders/2026").mkdir(parents=True)
        context.end(write(context, inbox, "orders/2026/a.csv"))
        until(lambda: tree(inbox) == ["done/orders/2026/a.csv"])
        (inbox / "done/put-here-by-hand").write_text("x")
        context.stopping.wait(0.3)
    with running(file(on_done="move", recursive=True), context):
        once(context, ("created", "orders/2026/a.csv"))


def test_done_may_be_anywhere(context, inbox, tmp_path):
    with running(file(on_done="move", done="../archive/ok", failed=str(tmp_path / "bad")), context):
        context.end(write(context, inbox, "a"))
        context.end(write(context, inbox, "b"), failed=2)
        until(lambda: tree(tmp_path) == ["archive/ok/a", "bad/b"])


def test_a_name_that_is_taken_gets_a_number(context, inbox):
    with running(file(on_done="move"), context):
        for content in ("first", "second", "third"):
            context.end(write(context, inbox, "a.csv", content))
            until(lambda: not (inbox / "a.csv").exists())
    found = {path.name: path.read_text() for path in (inbox / "done").iterdir()}
    assert found == {"a.csv": "first", "a-1.csv": "second", "a-2.csv": "third"}


def test_a_file_that_failed_and_is_moved_back_runs_again(context, inbox):
    with running(file(on_done="move"), context):
        first = write(context, inbox, "a")
        context.end(first, failed=1)
        until(lambda: tree(inbox) == ["failed/a"])
        (inbox / "failed/a").rename(inbox / "a")
        once(context, ("created", "a"), ("created", "a"))
        again = context.records()[1]["id"]
        assert again != first
        context.end(again)
        until(lambda: tree(inbox) == ["done/a"])


def test_a_file_that_changed_meanwhile_stays_until_its_new_content_has_ended(context, inbox):
    with running(file(on_done="move"), context):
        first, second = write(context, inbox, "a", "1"), write(context, inbox, "a", "22")
        context.end(first, failed=1)
        context.stopping.wait(0.5)
        assert tree(inbox) == ["a"]
        context.end(second)
        until(lambda: tree(inbox) == ["done/a"])
        assert (inbox / "done/a").read_text() == "22"


def test_a_file_whose_functions_took_it_away_is_forgotten(context, inbox):
    with running(file(on_done="move"), context):
        ended = write(context, inbox, "a")
        (inbox / "a").unlink()
        context.end(ended)
        until(lambda: not context.redis.exists("broker:ended:inbox") and not known(context, "a"))
    assert tree(inbox) == []


def test_an_event_that_ended_while_it_was_stopped_is_put_away_at_the_start(context, inbox):
    with running(file(on_done="move", on_deleted=True), context):
        ended = write(context, inbox, "a")
    context.end(ended)
    with running(file(on_done="move", on_deleted=True), context):
        until(lambda: tree(inbox) == ["done/a"])
        once(context, ("created", "a"))


def test_a_crash_after_moving_a_file_is_made_up_for(context, inbox):
    with running(file(on_done="move", on_deleted=True), context):
        ended = write(context, inbox, "a")
    context.end(ended)
    # What a killed process leaves: the file is moved, and neither the journal nor the ledger knows.
    (inbox / "done").mkdir()
    (inbox / "a").rename(inbox / "done/a")
    with running(file(on_done="move", on_deleted=True), context):
        until(lambda: not context.redis.exists("broker:ended:inbox") and not known(context, "a"))
        once(context, ("created", "a"))
    assert tree(inbox) == ["done/a"]


def test_a_file_that_no_function_wants_stays_and_runs_no_second_time(context, inbox):
    context.matching = False
    with running(file(on_done="move"), context):
        write(context, inbox, "a")
    with running(file(on_done="move"), context):
        once(context, ("created", "a"))
    assert tree(inbox) == ["a"]


def test_a_file_that_cannot_be_moved_stays_and_holds_up_no_other(context, inbox, caplog):
    (inbox / "done").write_text("a file where the folder should be")
    with running(file(on_done="move"), context):
        stuck, other = write(context, inbox, "a"), write(context, inbox, "b")
        context.end(stuck)
        context.end(other, failed=1)
        until((inbox / "failed/b").exists)
        once(context, ("created", "done"), ("created", "a"), ("created", "b"))
    assert "cannot be put away and stays" in caplog.text
    assert (inbox / "a").exists()


def test_an_end_that_is_about_no_file_is_logged_and_skipped(context, inbox, caplog):
    context.redis.rpush("broker:ended:inbox", "0\nnonsense")
    with running(file(on_done="move"), context):
        until(lambda: not context.redis.exists("broker:ended:inbox"))
    assert "not about a file" in caplog.text


def test_hundreds_of_files_are_put_away_while_others_come(context, inbox):
    with running(file(on_done="move"), context):
        started(context)
        for number in range(500):
            (inbox / f"{number}").write_text("x")
        until(lambda: context.count() == 500)
        for record in context.records():
            context.end(record["id"])
        (inbox / "last").write_text("x")
        until(lambda: ("created", "last") in changes(context))
        until(lambda: len(tree(inbox / "done")) == 500)


# Moving alone.


def test_a_file_is_moved_to_another_file_system_whole(tmp_path):
    with memory_folder() as memory:
        if memory.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is one file system only")
        (tmp_path / "a.csv").write_text("content")
        os.utime(tmp_path / "a.csv", ns=(1, 1_000_000_000_000_000_001))
        (memory / "done").mkdir()
        (memory / "done/a.csv").write_text("older")
        assert put_away(tmp_path / "a.csv", memory / "done/a.csv") == memory / "done/a-1.csv"
        assert tree(memory) == ["done/a-1.csv", "done/a.csv"]
        assert (memory / "done/a-1.csv").read_text() == "content"
        assert (memory / "done/a-1.csv").stat().st_mtime_ns == 1_000_000_000_000_000_001
        assert tree(tmp_path) == []


def test_a_file_that_cannot_be_moved_leaves_no_empty_one_behind(tmp_path):
    with pytest.raises(FileNotFoundError):
        put_away(tmp_path / "missing", tmp_path / "done/missing")
    assert tree(tmp_path) == []


def test_a_folder_is_never_taken_for_a_free_name(tmp_path):
    (tmp_path / "done/a").mkdir(parents=True)
    (tmp_path / "a").write_text("x")
    assert put_away(tmp_path / "a", tmp_path / "done/a") == Path(tmp_path / "done/a-1")
