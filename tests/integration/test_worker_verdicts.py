"""What becomes of attempts that break a limit: in the books, the log and the number of tries, with a real worker."""

from __future__ import annotations

import pytest

from broker.errors import EventTooLarge
from tests.conftest import until

VERDICTS = {
    "exit": "Exited",
    "signal": "Killed",
    "slow": "TimedOut",
    "memory": "OutOfMemory",
    "processes": "TooManyProcesses",
    "tmp": "TmpFull",
    "raise": "ValueError",
    "nan": "Runtime.MarshalError",
    "large": "Function.ResponseSizeTooLarge",
}

CODE = """
import os, signal, subprocess, threading, time

def handler(event, context):
    what = event["data"]
    if what == "exit":
        os._exit(3)
    if what == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "memory":
        global kept
        kept = b"x" * (100 << 20)
    if what == "processes":
        for _ in range(30):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    if what == "tmp":
        open(os.environ["TMPDIR"] + "/x", "wb").write(bytes(3 << 20))
    if what == "raise":
        raise ValueError
    if what == "nan":
        return float("nan")
    if what == "large":
        return "x" * 2000
    time.sleep(60)
"""

LIMITS = {
    "timeout": "2s",
    "memory": "64MB",
    "processes": 20,
    "tmp": "2MB",
    "max_result": 1000,
}


RETRY = """
[functions.f.retry]
attempts = 2
backoff = "fixed"
base = "10ms"
by = { Killed = 1, OutOfMemory = 1, HandlerFailed = 3 }
"""


@pytest.mark.timeout(60)
def test_each_way_to_fail_has_its_own_reason_and_may_have_its_own_number_of_tries(project):
    project.configure(CODE, RETRY, **LIMITS)
    project.worker()
    ids = dict(zip(VERDICTS, project.push(*VERDICTS), strict=True))
    tries = {"signal": 1, "memory": 1, "raise": 3, "nan": 3, "large": 3}
    for what, reason in VERDICTS.items():
        job = project.ends(ids[what], "failed", within=40)
        assert (job["reason"], job["attempt"]) == (reason, str(tries.get(what, 2))), what
        report = [line for line in project.lines(ids[what]) if line.startswith("REPORT")][-1]
        assert report.endswith(f"Status: {'timeout' if what == 'slow' else 'error'}\tError Type: {reason}")


def test_an_event_that_is_too_long_is_refused_and_a_long_result_goes_on_to_its_destination(project):
    project.configure(
        "def handler(event, context): return 'x' * (2 << 20)\n",
        '[functions.g]\nhandler = "g.py:handler"\n',
        on_success="g",
    )
    (project.root / "g.py").write_text("def handler(event, context): return len(event['data']['result'])\n")
    with pytest.raises(EventTooLarge, match="the limit is 1MB"):
        project.push("x" * (1 << 20))
    project.worker()
    (id_,) = project.push(1)
    project.ends(id_)
    ours = until(lambda: [job for job in _jobs(project) if (job["origin"], job["status"]) == ("g", "finished")])
    assert project.result(ours[0]["id"]) == 2 << 20


def _jobs(project):
    ids = [key.decode().removeprefix("rq:job:") for key in project.client.keys("rq:job:*")]
    return [{**project.job(id_), "id": id_} for id_ in ids]
