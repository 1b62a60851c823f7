"""The file source and files that are still being written: a half-written file is never an event."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

from broker.quantity import Duration
from sources._file.folder import Folder
from sources._file.hints import LIMIT, Hints
from sources._file.listen import ObserverHints
from tests.conftest import until
from tests.file_source import NOBODY, changes, file, memory_folder, once, polled, process, started
from tests.source_context import RealContext, running

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a file open for writing")
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs a source that runs as another user")

# A writer in a process of its own: opens, and writes, flushes or closes for each line that it is told.
WRITER = """
import sys
opened = []
for line in sys.stdin:
    verb, _, text = line.strip().partition(" ")
    if verb == "open":
        opened.append(open(text.split()[0], text.split()[1]))
    elif verb == "write":
        opened[-1].write(text)
        opened[-1].flush()
    elif verb == "close":
        opened.pop().close()
    print("ok", flush=True)
"""


@pytest.fixture
def context(redis_client, tmp_path):
    return RealContext(redis_client, tmp_path, name="inbox")


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def tell():
    writer = subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(line):
        writer.stdin.write(line + "\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "ok\n"

    with writer:
        yield tell
        writer.kill()


def quiet(context, seconds=0.7):
    """See that nothing is published for several times the settle time."""
    context.stopping.wait(seconds)
    assert changes(context) == []


@LINUX
def test_a_writer_that_pauses_longer_than_settle_is_waited_for(context, inbox, tell):
    with running(file(), context):
        started(context)
        tell(f"open {inbox}/a w")
        tell("write half")
        quiet(context)
        tell("write whole")
        quiet(context)
        tell("close")
        once(context, ("created", "a"))
    assert context.records()[0]["data"]["size"] == len("halfwhole")


def test_what_its_writer_wrote_last_between_two_looks_is_in_the_one_event(context, inbox, monkeypatch):
    writing, looks = Folder.writing, []

    def written_meanwhile(folder, path):
        looks.append(path)
        if len(looks) == 1:
            (inbox / "a").write_text("half, and the rest")
        return writing(folder, path)

    monkeypatch.setattr(Folder, "writing", written_meanwhile)
    monkeypatch.setattr("sources._file.examine.YOUNG", 0)
    (inbox / "a").write_text("half")
    with running(file(scan=Duration(0.1)), context):
        once(context, ("created", "a"))
    (record,) = context.records()
    assert record["data"]["size"] == len("half, and the rest")


@LINUX
def test_a_writer_that_was_there_before_the_source_is_waited_for(context, inbox, tell):
    tell(f"open {inbox}/a w")
    tell("write half")
    with running(file(scan=Duration(0.1)), context):
        quiet(context)
        tell("write whole")
        tell("close")
        once(context, ("created", "a"))
    assert context.records()[0]["data"]["size"] == len("halfwhole")


@LINUX
def test_a_file_that_is_appended_to_waits_again(context, inbox, tell):
    with running(file(scan=Duration(0.1)), context):
        started(context)
        (inbox / "a").write_text("1")
        until(lambda: context.count() == 1)
        context.redis.delete("test:events")
        tell(f"open {inbox}/a a")
        tell("write 2")
        quiet(context)
        tell("close")
        once(context, ("modified", "a"))


@LINUX
def test_the_last_of_several_writers_completes_the_file(context, inbox, tell):
    with running(file(), context):
        started(context)
        tell(f"open {inbox}/a w")
        tell(f"open {inbox}/a a")
        tell("write x")
        tell("close")
        quiet(context)
        tell("close")
        once(context, ("created", "a"))


@LINUX
def test_a_file_moved_in_while_it_is_being_written_waits_for_its_writer(context, inbox, tmp_path, tell):
    with running(file(), context):
        started(context)
        tell(f"open {tmp_path}/a w")
        (tmp_path / "a").rename(inbox / "a")
        quiet(context)
        tell("write x")
        tell("close")
        once(context, ("created", "a"))


@LINUX
def test_a_file_that_is_mapped_for_writing_is_being_written(context, inbox):
    with running(file(), context):
        started(context)
        with (inbox / "a").open("w+b") as opened:
            opened.write(b"\0" * 4096)
            opened.flush()
            mapped = mmap.mmap(opened.fileno(), 4096)
        quiet(context)
        mapped[:4] = b"done"
        mapped.close()
        until(lambda: changes(context) == [("created", "a")])


@LINUX
@ROOT
def test_of_another_users_file_the_close_is_waited_for_when_its_making_was_seen(redis_client, redis_server, tell):
    with memory_folder() as root:
        (root / "inbox").mkdir()
        context = RealContext(redis_client, root)
        with process(redis_server.url, root, uid=NOBODY):
            started(context)
            tell(f"open {root}/inbox/a w")
            tell("write half")
            quiet(context)
            tell("write whole")
            tell("close")
            once(context, ("created", "a"))
        assert context.records()[0]["data"]["size"] == len("halfwhole")


@LINUX
@ROOT
def test_another_users_files_that_were_there_before_settle(redis_client, redis_server):
    with memory_folder() as root:
        (root / "inbox").mkdir()
        (root / "inbox/a").write_text("x")
        context = RealContext(redis_client, root)
        with process(redis_server.url, root, uid=NOBODY):
            once(context, ("created", "a"))


@LINUX
def test_looking_at_a_file_never_fails_its_writer(context, inbox):
    # The lease that tells whether a file is being written must not be felt by those who open it at the same time.
    with running(file(scan=Duration(0.01)), context):
        started(context)
        for number in range(2000):
            with os.fdopen(os.open(inbox / "a", os.O_WRONLY | os.O_CREAT), "w") as opened:
                opened.write(f"{number}")
        until(lambda: context.records()[-1]["data"]["size"] == 4)


def test_without_hints_a_file_is_complete_when_it_has_settled(context, inbox, tell):
    with running(polled(settle=Duration(0.5)), context):
        tell(f"open {inbox}/a w")
        for _ in range(8):
            tell("write x")
            context.stopping.wait(0.15)
            assert changes(context) == []
        once(context, ("created", "a"))
    assert context.records()[0]["data"]["size"] == 8


def test_a_file_written_beside_and_renamed_is_one_event(context, inbox):
    with running(file(scan=Duration(0.05)), context):
        started(context)
        for content in ("1", "22"):
            (inbox / "a.csv.tmp").write_text(content)
            (inbox / "a.csv.tmp").replace(inbox / "a.csv")
            until(
                lambda content=content: context.records()[-1:] and context.records()[-1]["data"]["size"] == len(content)
            )
        once(context, ("created", "a.csv"), ("modified", "a.csv"))


def test_an_editor_that_saves_makes_one_event(context, inbox):
    with running(file(), context):
        started(context)
        (inbox / "notes").write_text("old")
        until(lambda: context.count() == 1)
        # As Vim does: swap file, a test whether it may write, the old file aside, the new one written in its place.
        (inbox / ".notes.swp").write_text("swap")
        (inbox / "4913").write_text("")
        (inbox / "4913").unlink()
        (inbox / "notes").rename(inbox / "notes~")
        (inbox / "notes").write_text("new")
        (inbox / "notes~").unlink()
        (inbox / ".notes.swp").unlink()
        until(lambda: context.count() == 2)
        context.stopping.wait(0.3)
    assert [subject for _, subject in changes(context)] == ["notes", "notes"]


# Hints of other systems, and none.


@pytest.mark.parametrize("observer", [Observer, PollingObserver])
def test_an_observer_tells_of_files_and_folders(inbox, observer):
    (inbox / "old").write_text("x")
    hints = ObserverHints(str(inbox), observer(timeout=0.1), recursive=True)
    heard = set()

    def hear(*expected):
        def heard_all():
            heard.update(hints.take(0.05))
            return set(expected) <= heard

        until(heard_all, what=f"{expected}")

    try:
        (inbox / "a").write_text("x")
        (inbox / "sub").mkdir()
        hear(("changed", "a"), ("folder", "sub"))
        (inbox / "sub/b").write_text("x")
        hear(("changed", "sub/b"))
        (inbox / "old").rename(inbox / "new")
        hear(("gone", "old"), ("changed", "new"))
        (inbox / "a").unlink()
        hear(("gone", "a"))
    finally:
        hints.close()


def test_too_many_hints_become_one_that_hints_were_lost():
    hints = Hints()
    for number in range(LIMIT + 10):
        hints._hear(("closed", str(number)))
    assert hints.take(0) == [("lost", "")]
    assert hints.take(0) == []
    hints._hear(("closed", "a"))
    assert hints.take(0) == [("closed", "a")]
