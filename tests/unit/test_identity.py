"""Identity: a worker's name tells its own machine whether it still lives."""

from __future__ import annotations

import os
import subprocess
import sys

from broker import identity


def test_a_process_that_runs_is_not_dead_and_one_that_has_ended_is():
    code = "import sys; from broker import identity; print(identity.of_this_process(), flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    name = process.stdout.readline().strip()
    assert not identity.is_dead(name)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie still
    assert identity.is_dead(name)
    process.wait()
    assert identity.is_dead(name)
    process.communicate()


def test_another_machines_worker_is_not_known_to_be_dead():
    assert not identity.is_dead("elsewhere-00000000-1-ff")
    assert not identity.is_dead("named-by-hand")
