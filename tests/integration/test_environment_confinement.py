"""What an environment may not do, may not have, and gets for itself alone."""

# ruff: noqa: F401, F811 -- pytest finds the imported fixtures by their names

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from broker.errors import EnvironmentDied
from broker.runtime.nursery import Nursery
from broker.runtime.scratch import Scratch, abandoned
from tests.conftest import until
from tests.integration.environment_driver import Driver, alive, driver, nursery

pytestmark = pytest.mark.timeout(30)

ASK = """
import os, resource, signal, subprocess, sys, tempfile
from pathlib import Path
def handler(event, context):
    return eval(event)
"""

STATUS = "dict(l.split(':\\t') for l in Path('/proc/self/status').read_text().splitlines() if ':\\t' in l)"


def test_no_program_that_it_starts_gains_rights(driver: Driver) -> None:
    environment = driver.warm(ASK)
    assert driver.result(environment, f"{STATUS}['NoNewPrivs']") == "1"
    assert "NoNewPrivs:\t1" in driver.result(
        environment, "subprocess.run(['cat', '/proc/self/status'], capture_output=True, text=True).stdout"
    )


def test_files_beyond_the_limit_cannot_be_opened(driver: Driver) -> None:
    environment = driver.warm(ASK, open_files=64)
    error = driver.error(environment, "[open('/dev/null') for _ in range(100_000)]")
    assert error["errorMessage"] == "[Errno 24] Too many open files: '/dev/null'"
    limits = driver.result(environment, "resource.getrlimit(resource.RLIMIT_NOFILE)")
    assert limits == [64, 64]


def test_a_file_beyond_the_limit_cannot_be_written(driver: Driver) -> None:
    environment = driver.warm(ASK, file_size=1 << 20)
    assert driver.result(environment, "open('small', 'wb').write(bytes(1 << 20))") == 1 << 20
    error = driver.error(
        environment,
        "open('large', 'wb', buffering=0).write(bytes(1 << 21)) and open('large', 'ab', buffering=0).write(b'x')",
    )
    assert error["errorMessage"] == "[Errno 27] File too large"
    assert driver.result(environment, "os.path.getsize('large')") == 1 << 20


def test_it_stands_back_as_far_as_it_is_told(driver: Driver) -> None:
    assert driver.result(driver.warm(ASK), "os.nice(0)") == os.nice(0)
    assert driver.result(driver.warm(ASK, nice=7), "os.nice(0)") == min(19, os.nice(0) + 7)


def test_each_has_a_tmp_of_its_own_that_others_cannot_look_into(driver: Driver) -> None:
    driver.write("function.py", ASK)
    one, other = (driver.warm("function.py:handler") for _ in range(2))
    path = Path(driver.result(one, "tempfile.mkstemp()[1]"))
    own = Path(driver.result(one, "os.environ['TMPDIR']"))
    assert path.parent == own
    assert own.stat().st_mode & 0o777 == 0o700
    assert own.parent.stat().st_mode & 0o777 == 0o711
    assert driver.result(other, "os.environ['TMPDIR']") != str(own)
    assert driver.result(other, "os.listdir(os.environ['TMPDIR'])") == []


def test_its_tmp_is_removed_with_all_that_is_in_it(driver: Driver) -> None:
    environment = driver.warm(ASK)
    tmp = Path(driver.result(environment, "os.environ['TMPDIR']"))
    assert driver.result(environment, "os.makedirs(os.environ['TMPDIR'] + '/a/b')") is None
    assert driver.result(environment, "open(os.environ['TMPDIR'] + '/a/b/c', 'w').write('x')") == 1
    assert driver.result(environment, "os.chmod(os.environ['TMPDIR'] + '/a', 0)") is None
    environment.stop()
    driver.died(environment)
    until(lambda: not tmp.exists(), what=lambda: f"{tmp} is removed")
    assert tmp.parent.exists()


def test_a_link_in_its_tmp_leads_the_removal_nowhere(driver: Driver) -> None:
    driver.write("kept/file", "kept")
    environment = driver.warm(ASK)
    tmp = Path(driver.result(environment, "os.environ['TMPDIR']"))
    assert driver.result(environment, f"os.symlink({str(driver.root / 'kept')!r}, os.environ['TMPDIR'] + '/x')") is None
    environment.stop()
    driver.died(environment)
    until(lambda: not tmp.exists(), what=lambda: f"{tmp} is removed")
    assert (driver.root / "kept/file").exists()


def test_tmp_folders_of_a_worker_killed_with_its_nursery_are_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "function.py").write_text(ASK)
    code = f"""
import time
from pathlib import Path
from broker.function import Function
from broker.runtime.messages import Ready
from broker.runtime.nursery import Nursery
nursery = Nursery(Path({str(tmp_path)!r}))
environment = nursery.start(Function(name="fn", handler="function.py:handler"))
while not any(isinstance(message, Ready) for message in environment.read()):
    nursery.read()
    time.sleep(0.01)
print(nursery.pid, nursery._scratch.path, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout
        pid, folder = worker.stdout.readline().split()
        assert len(list(Path(folder).iterdir())) == 1
        os.kill(int(pid), signal.SIGSTOP)  # so that it does not clean up when it notices
        worker.kill()
    os.kill(int(pid), signal.SIGKILL)
    until(lambda: not alive(int(pid)))
    assert Path(folder) in abandoned()
    nursery = Nursery(tmp_path)
    until(lambda: not Path(folder).exists(), what=lambda: f"{folder} is removed")
    nursery.close()
    assert not Path(nursery._scratch.path).exists()


def test_folders_that_are_in_use_or_that_others_made_are_not_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "broker-tmp-notes").mkdir()
    (tmp_path / "broker-tmp-abcdefgh").symlink_to("/")
    scratch = Scratch()
    assert abandoned() == []
    scratch.close()
    assert abandoned() == []


def test_a_folder_that_is_being_made_is_not_taken_for_abandoned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real, seen = fcntl.flock, []

    def flock(file: int, how: int) -> None:
        if how == fcntl.LOCK_EX:  # another worker looks while we have no lock yet
            seen.append((len(list(tmp_path.iterdir())), abandoned()))
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    scratch = Scratch()
    assert seen == [(1, [])]
    assert scratch.path.stat().st_mode & 0o777 == 0o711
    scratch.close()
    assert list(tmp_path.iterdir()) == []


def test_one_that_cannot_be_confined_does_not_run(driver: Driver) -> None:
    scratch = driver.nursery._scratch.path
    away = scratch.rename(f"{scratch}.away")
    try:
        died = driver.died(driver.start(ASK))
    finally:
        away.rename(scratch)
    assert isinstance(died.error, EnvironmentDied)
    assert died.init
    assert driver.result(driver.warm(ASK), "1 + 1") == 2
