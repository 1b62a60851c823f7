"""The function backup: an archive counts only when it was read back."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import subprocess
import tarfile
import threading
from contextlib import closing
from types import SimpleNamespace

import pytest

from handlers import backup, database

DUE = "2026-11-24T02:00:00Z"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Functions run in the project's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inbox/done").mkdir(parents=True)
    (tmp_path / "inbox/a.csv").write_text("a")
    (tmp_path / "inbox/done/b.csv").write_text("b" * 100_000)
    (tmp_path / "inbox/empty.csv").touch()
    with database.writing() as connection:
        connection.execute("INSERT INTO weather (city, day, temperature) VALUES ('Oslo', '2026-11-23', 1)")
    return tmp_path


def run(due=DUE):
    return backup.handler({"time": "2026-01-01T00:00:00Z", "data": {"due": due}}, SimpleNamespace(aws_request_id="7"))


def archives(project):
    return sorted(path.name for path in (project / "backups").iterdir())


def test_the_archive_holds_the_database_and_the_inbox(project):
    result = run()
    archive = project / "backups/backup-20261124T020000Z.tar.gz"
    assert result == {
        "archive": "backups/backup-20261124T020000Z.tar.gz",
        "files": 4,
        "bytes": archive.stat().st_size,
        "deleted": [],
    }
    with tarfile.open(archive) as tar:
        tar.extractall(project / "restored", filter="data")
    assert (project / "restored/inbox/done/b.csv").read_text() == "b" * 100_000
    with closing(sqlite3.connect(project / "restored/weather.db")) as connection:
        assert connection.execute("SELECT city FROM weather").fetchall() == [("Oslo",)]
    assert archives(project) == [archive.name], "nothing unfinished is left"


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="sha256sum is a program of Linux")
def test_sha256sum_reads_the_manifest(project):
    (project / "inbox/with\nbreak and \\.csv").write_text("x")
    (project / os.fsdecode(b"inbox/not\xffutf8")).write_text("y")
    with tarfile.open(run()["archive"]) as tar:
        tar.extractall(project / "restored", filter="data")
    subprocess.run(["sha256sum", "--check", "--strict", backup.MANIFEST], cwd=project / "restored", check=True)


def test_a_second_attempt_makes_no_second_archive(project):
    (project / "backups/.7").mkdir(parents=True)
    (project / "backups/.7/left by the first one").touch()
    run()
    run()
    assert archives(project) == ["backup-20261124T020000Z.tar.gz"]


def test_the_newest_archives_are_kept_and_other_files_are_left_alone(project, monkeypatch):
    monkeypatch.setattr(backup, "KEEP", 2)
    (project / "backups").mkdir()
    (project / "backups/mine.tar.gz").touch()
    for day in range(1, 5):
        result = run(f"2026-11-0{day}T03:00:00+01:00")
    assert result["deleted"] == ["backup-20261102T020000Z.tar.gz"]
    assert archives(project) == ["backup-20261103T020000Z.tar.gz", "backup-20261104T020000Z.tar.gz", "mine.tar.gz"]


def test_without_a_database_the_inbox_alone_is_backed_up(project):
    shutil.rmtree(project / "data")
    shutil.rmtree(project / "inbox/done")
    assert run()["files"] == 2
    assert not (project / "data").exists()


def test_links_and_pipes_are_not_followed(project):
    (project / "inbox/link").symlink_to("/etc/passwd")
    os.mkfifo(project / "inbox/pipe")
    assert run()["files"] == 4


def test_an_event_without_a_due_time_is_backed_up_by_its_own(project):
    event = {"time": "2026-11-23T08:00:00Z", "data": None}
    assert "20261123T080000Z" in backup.handler(event, SimpleNamespace(aws_request_id="7"))["archive"]


def test_a_backup_is_of_one_moment_while_others_write(project):
    ended = threading.Event()

    def write():
        n = 0
        while not ended.is_set():
            with database.writing() as connection:
                for table in "ab":
                    connection.execute("INSERT INTO counted VALUES (?, '2026-11-23')", (f"{table}{n}",))
            n += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for n in range(3):
            with tarfile.open(run(f"2026-11-2{n}T00:00:00Z")["archive"]) as tar:
                tar.extract("weather.db", project / "restored", filter="data")
            with closing(sqlite3.connect(project / "restored/weather.db")) as connection:
                assert connection.execute("SELECT count(*) % 2 FROM counted").fetchone() == (0,)
    finally:
        ended.set()
        thread.join()


def damage_content(archive):
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    archive.write_bytes(content)


def cut(archive):
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])


def lose_a_file(archive):
    with tarfile.open(archive) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(archive, "w:gz") as tar:
        for member, content in members[1:]:
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("harm", [damage_content, cut, lose_a_file])
def test_an_archive_that_cannot_be_read_back_does_not_count(project, monkeypatch, harm):
    run("2026-11-01T00:00:00Z")
    monkeypatch.setattr(backup, "KEEP", 1)
    write = backup._write

    def write_badly(archive, folder):
        manifest = write(archive, folder)
        harm(archive)
        return manifest

    monkeypatch.setattr(backup, "_write", write_badly)
    with pytest.raises(Exception):  # noqa: B017 -- which one depends on the byte that is hit
        run()
    assert archives(project) == ["backup-20261101T000000Z.tar.gz"]


def test_a_damaged_database_is_told_and_not_taken_for_a_backup(project):
    with database.writing() as connection:
        connection.executemany("INSERT INTO counted VALUES (?, '2026-11-23')", [(f"e{n}",) for n in range(5000)])
    path = project / "data/weather.db"
    content = bytearray(path.read_bytes())
    content[-8192:-4096] = bytes(4096)
    path.write_bytes(content)
    with pytest.raises((backup.BackupDamaged, sqlite3.DatabaseError)):
        run()
    assert archives(project) == []
