"""The worker: what is owed is run, its lines are kept, its failures are retried, its end loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from broker import logs
from tests.conftest import until

ECHO = """
def handler(event, context):
    print("hello", event["data"])
    return {"got": event["data"], "attempt": context.attempt}
"""


def test_a_message_runs_its_function_and_leaves_result_and_log(project):
    project.configure(ECHO)
    project.worker()
    (id,) = project.push({"n": 1})
    project.ends(id)
    assert project.result(id) == {"got": {"n": 1}, "attempt": 1}
    start, line, end, report = project.lines(id)
    assert start == f"START RequestId: {id} Version: $LATEST"
    assert line == "hello {'n': 1}"
    assert end == f"END RequestId: {id}"
    assert report.startswith(f"REPORT RequestId: {id}\tDuration: ")
    assert "Memory Size: 256 MB" in report
    assert "Init Duration:" in report


def test_what_was_published_while_no_worker_lived_is_run_later(project):
    project.configure(ECHO)
    ids = project.push(*range(500))
    project.worker()
    for id in ids:
        project.ends(id)


def test_a_failure_is_retried_with_its_attempt_told_and_then_buried(project):
    project.configure(
        "def handler(event, context):\n    raise ValueError(f'no {context.attempt}')\n",
        retry={"attempts": 3, "backoff": "fixed", "base": "10ms", "jitter": False},
    )
    project.worker()
    (id,) = project.push(1)
    job = project.ends(id, "failed")
    assert (job["attempt"], job["reason"]) == ("3", "ValueError")
    assert project.client.zscore("rq:failed:f", id) > time.time() + 50 * 365 * 86400
    text = "\n".join(project.lines(id))
    assert all(f"ValueError: no {n}" in text for n in (1, 2, 3))
    assert 'f.py", line 2, in handler' in text
    assert "bootstrap" not in text


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os\ndef handler(event, context): os._exit(3)", "Exited"),
        ("import os, signal\ndef handler(event, context): os.kill(os.getpid(), signal.SIGSEGV)", "Killed"),
        ("import time\ndef handler(event, context): time.sleep(60)", "TimedOut"),
        ("def handler(event, context):\n  while True: pass", "TimedOut"),
        ("def handler(event, context): return object()", "Runtime.MarshalError"),
        ("import nosuchmodule", "InitFailed"),
        ("x = 1", "HandlerMissing"),
        ("def handler(event, context):\n  x = []\n  while True: x.append(bytearray(1 << 20))", "OutOfMemory"),
    ],
)
def test_whatever_a_function_does_harms_its_own_attempt_alone(project, code, reason):
    project.configure(code, timeout="500ms", memory="64MB", retry={"attempts": 1})
    project.worker()
    bad = project.push("bad")[0]
    assert project.ends(bad, "failed")["reason"] == reason
    assert "Init Duration: -" not in project.lines(bad)[-1]
    (project.root / "f.py").write_text(ECHO)
    time.sleep(0.15)  # looks at the disk are at least 0.1 s apart
    good = project.push("good")[0]
    project.ends(good)


def test_a_timeout_ends_everything_the_attempt_had_started(project):
    project.configure(
        """
        import subprocess, time
        def handler(event, context):
            subprocess.Popen(["sleep", event["data"]])
            subprocess.Popen(["setsid", "sleep", event["data"]])
            time.sleep(60)
        """,
        timeout="300ms",
        retry={"attempts": 1},
    )
    project.worker()
    seconds = f"12345.{os.getpid()}"
    project.ends(project.push(seconds)[0], "failed")
    assert subprocess.run(["pgrep", "-f", f"sleep {seconds}"], capture_output=True).returncode == 1


def test_a_line_is_in_the_stream_while_its_function_still_runs(project):
    project.configure(
        """
        import pathlib, subprocess, time
        def handler(event, context):
            print("first")
            subprocess.run(["echo", "from a subprocess"])
            while not pathlib.Path("go").exists():
                time.sleep(0.01)
        """
    )
    project.worker()
    (id,) = project.push(1)
    until(lambda: {"first", "from a subprocess"} <= set(project.lines(id)))
    assert project.job(id)["status"] == "started"
    (project.root / "go").touch()
    project.ends(id)


def test_code_changed_on_disk_is_what_runs_next(project):
    project.configure("def handler(event, context): return 1\n")
    project.worker()
    first = project.push(0)[0]
    project.ends(first)
    (project.root / "f.py").write_text("def handler(event, context): return 'two'\n")
    time.sleep(0.15)  # looks at the disk are at least 0.1 s apart
    second = project.push(0)[0]
    project.ends(second)
    assert (project.result(first), project.result(second)) == (1, "two")


def test_a_slow_function_does_not_hold_up_another(project):
    (project.root / "g.py").write_text("def handler(event, context): return 'g'\n")
    project.configure(
        """
        import pathlib, time
        def handler(event, context):
            while not pathlib.Path("go").exists():
                time.sleep(0.01)
        """,
        '[functions.g]\nhandler = "g.py:handler"\n[sources.r]\nkind="./quiet.py:Quiet"\n'
        '[[triggers]]\nsource = "r"\nfunction = "g"\n',
    )
    project.worker()
    slow = project.push(*range(20))
    from broker.event import new_event

    (receipt,) = project.publisher.publish([new_event(source="r", type="t")])
    project.ends(receipt.invocations[0])
    assert project.job(slow[-1])["status"] == "queued"
    (project.root / "go").touch()
    for id in slow:
        project.ends(id)


def test_a_batch_is_handed_over_together_and_answers_item_by_item(project):
    project.configure(
        """
        def handler(events, context):
            print("batch of", len(events))
            bad = [e["id"] for e in events if e["data"] == "bad" and context.attempt == 1]
            return {"batchItemFailures": [{"itemIdentifier": id} for id in bad]}
        """,
        batch={"size": 10, "window": "200ms"},
        retry={"attempts": 2, "backoff": "fixed", "base": "10ms"},
    )
    ids = project.push(*[*range(9), "bad"])
    project.worker()
    for id in ids:
        project.ends(id)
    assert [project.job(id)["attempt"] for id in ids] == ["1"] * 9 + ["2"]
    assert "batch of 10" in project.lines()


def test_destinations_get_the_result_and_the_dead_letter(project):
    (project.root / "g.py").write_text("def handler(event, context): return event['data']\n")
    project.configure(
        "def handler(event, context):\n    return 1 / event['data']\n",
        '[functions.g]\nhandler = "g.py:handler"\n',
        on_success="g",
        on_failure="g",
        retry={"attempts": 1},
    )
    project.worker()
    good, bad = project.push(2, 0)
    project.ends(good)
    project.ends(bad, "failed")
    until(lambda: project.client.zcard("rq:finished:g") == 2)
    ran = [project.result(id.decode()) for id in project.client.zrange("rq:finished:g", 0, -1)]
    results = {result["invocation"]: result for result in ran}
    assert results[good]["result"] == 0.5
    assert results[bad]["error"]["errorType"] == "ZeroDivisionError"


def test_priorities_go_first(project):
    project.configure("def handler(event, context): print('ran', event['data'])\n", concurrency=1)
    low, normal, high = (
        project.push("low", priority="low"),
        project.push("normal"),
        project.push("high", priority="high"),
    )
    project.worker()
    for (id,) in (low, normal, high):
        project.ends(id)
    assert [line for line in project.lines() if line.startswith("ran")] == ["ran high", "ran normal", "ran low"]


def test_sigterm_lets_what_runs_finish_and_gives_back_the_rest(project):
    code = "import time\ndef handler(event, context):\n    open('begun', 'w').close()\n    time.sleep(0.5)\n"
    project.configure(code, concurrency=1)
    worker = project.worker()
    first, second = project.push(1, 2)
    until((project.root / "begun").exists)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert project.job(first)["status"] == "finished"
    assert (project.job(second)["status"], project.job(second).get("attempt", "0")) == ("queued", "0")
    assert subprocess.run(["pgrep", "-g", str(worker.pid)], capture_output=True).stdout == b""


def test_a_killed_workers_attempt_runs_on_another_when_its_lease_of_three_seconds_has_ended(project):
    project.configure(
        """
        import time
        def handler(event, context):
            if context.attempt == 1:
                time.sleep(60)
            return context.attempt
        """
    )
    doomed = project.worker(name="doomed")
    (id,) = project.push(1)
    until(lambda: project.job(id)["status"] == "started")
    other = project.worker(name="other")
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.wait()
    seconds, microseconds = project.client.time()
    lease = project.client.zscore("broker:workers", "doomed")
    assert lease is None or lease <= seconds * 1000 + microseconds / 1000 + 3000
    project.ends(id)
    assert project.result(id) == 2
    assert project.job(id)["worker_name"] == "other"
    assert other.poll() is None


def test_a_worker_that_starts_again_on_its_machine_takes_back_at_once(project):
    project.configure("import time\ndef handler(event, context): time.sleep(60 if context.attempt == 1 else 0)\n")
    doomed = project.worker()
    (id,) = project.push(1)
    until(lambda: project.job(id)["status"] == "started")
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.wait()
    (name,) = project.client.zrange("broker:workers", 0, -1)
    project.client.zadd("broker:workers", {name: (time.time() + 3600) * 1000})  # its lease tells nothing for an hour
    project.worker()
    project.ends(id)


def test_a_flood_of_output_is_cut_and_says_so(project):
    project.configure(
        "def handler(event, context):\n    for _ in range(2000): print('x' * 9999)\n", log_limit="100KB", timeout="20s"
    )
    project.worker()
    (id,) = project.push(1)
    project.ends(id)
    lines = project.lines(id)
    assert sum(map(len, lines)) < 150_000
    assert any("output cut" in line for line in lines)
    assert lines[-1].startswith("REPORT")


def test_a_suspended_worker_claims_nothing_until_it_is_resumed(project):
    from rq.suspension import resume, suspend

    project.configure(ECHO)
    suspend(project.client)
    project.worker()
    (id,) = project.push(1)
    until(lambda: project.client.hget(project.client.srandmember("rq:workers"), "state") == b"suspended")
    assert project.job(id)["status"] == "queued"
    resume(project.client)
    project.ends(id)


def test_logs_can_be_followed_from_elsewhere(project):
    project.configure(ECHO)
    project.worker()
    code = (
        "import sys, redis; from broker.tail import Tail\n"
        "for lines in Tail(redis.Redis.from_url(sys.argv[1]), ['f']).follow():\n"
        "    for line in lines: print(line.text, flush=True)"
    )
    follower = subprocess.Popen([sys.executable, "-c", code, project.url], stdout=subprocess.PIPE, text=True)
    try:
        (id,) = project.push("x")
        assert follower.stdout.readline() == logs.start(id, "$LATEST") + "\n"
        assert follower.stdout.readline() == "hello x\n"
    finally:
        follower.kill()
        follower.communicate()


def test_what_waited_longer_than_max_age_is_a_dead_letter_that_says_so(project):
    project.configure(ECHO, max_age="50ms")
    (id,) = project.push(1)
    time.sleep(0.1)
    project.worker()
    assert project.ends(id, "failed")["reason"] == "Expired"
    until(lambda: any("max_age" in line for line in project.lines(id)))


def test_one_that_waited_too_long_takes_none_of_its_batch_with_it(project):
    project.configure(
        "def handler(events, context): return len(events)\n", batch={"size": 3, "window": "1h"}, max_age="1h"
    )
    first, old, last = project.push(1, 2, 3)
    project.client.hincrby(f"rq:job:{old}", "at", -7_200_000)
    project.worker()
    assert project.ends(old, "failed")["reason"] == "Expired"
    for id in (first, last):
        project.ends(id)


def test_a_destination_may_be_a_queue(project):
    (project.root / "g.py").write_text("def handler(event, context): return event['type']\n")
    project.configure(
        "def handler(event, context): return 7\n",
        '[functions.g]\nhandler = "g.py:handler"\n[sources.later]\nkind = "queue"\n'
        '[[triggers]]\nsource = "later"\nfunction = "g"\npattern = { data = { result = [7] } }\n',
        on_success="queue:later",
    )
    project.worker()
    project.ends(project.push(1)[0])
    until(lambda: project.client.zcard("rq:finished:g") == 1)
    (id,) = project.client.zrange("rq:finished:g", 0, -1)
    assert project.result(id.decode()) == "queue.message"


def test_rqs_stop_command_ends_a_running_invocation(project):
    from rq.command import send_stop_job_command
    from rq.serializers import JSONSerializer

    project.configure("import time\ndef handler(event, context): time.sleep(60)\n")
    project.worker()
    (id,) = project.push(1)
    until(lambda: project.job(id)["status"] == "started")
    send_stop_job_command(project.client, id, serializer=JSONSerializer)
    assert project.ends(id, "stopped")["reason"] == "Stopped"


def test_a_handler_that_keeps_killing_its_environment_is_a_dead_letter_after_three(project):
    project.configure(
        "import os\ndef handler(event, context): os._exit(1)\n",
        retry={"attempts": 50, "backoff": "fixed", "base": "1ms"},
    )
    project.worker()
    (id,) = project.push(1)
    assert project.ends(id, "failed")["attempt"] == "3"


def test_others_do_not_wait_for_the_first_when_that_takes_long(project):
    """A function gets another environment while its first one is at its first attempt."""
    project.configure(
        """
        import time
        from pathlib import Path
        def handler(event, context):
            while event["data"] == "hold" and not Path("go").exists():
                time.sleep(0.005)
            return event["data"]
        """
    )
    project.worker()
    hold, *others = project.push("hold", 1, 2)
    for id in others:
        project.ends(id)
    assert project.job(hold)["status"] == "started"
    (project.root / "go").write_text("")
    project.ends(hold)
