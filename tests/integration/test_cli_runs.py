"""`broker runs`, `show` and `dead`: invocations are found, and dead letters run again or are forgotten."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from broker.errors import UnknownInvocation
from broker.ledger import reading
from tests.integration.command import ORDERS, broker, environment

CODE = """
def handler(event, context):
    print("got", event["data"])
    if event["data"] == "bad":
        raise ValueError("no good")
    return {"n": event["data"]}
"""


def runs(project, *arguments):
    return json.loads(broker(project.root, "runs", "--json", *arguments).stdout)


def test_invocations_are_listed_newest_first_and_each_is_shown_whole(project):
    project.configure(CODE, ORDERS, retry={"attempts": 1})
    project.worker()
    good, bad = project.push(1)[0], project.push("bad")[0]
    project.ends(good)
    project.ends(bad, "failed")
    (later,) = project.push("later", delay=60)
    assert [(row["id"], row["status"], row["attempt"]) for row in runs(project)] == [
        (later, "scheduled", 0),
        (bad, "failed", 1),
        (good, "finished", 1),
    ]
    assert [row["id"] for row in runs(project, "f", "--status", "failed")] == [bad]
    assert [row["id"] for row in runs(project, "-n", "1")] == [later]
    (row,) = runs(project, "--status", "finished")
    assert (row["source"], row["event"]) == ("q", json.loads(project.job(good)["data"])[2][1]["id"])
    assert 0 <= row["duration"] < 10
    table = broker(project.root, "runs").stdout.splitlines()
    assert table[0].split() == ["ID", "FUNCTION", "STATUS", "TRIES", "AGE", "TOOK", "REASON", "SOURCE", "EVENT"]
    assert table[2].split()[:4] == [bad, "f", "failed", "1"]

    shown = broker(project.root, "show", good[:6]).stdout
    assert f"invocation  {good}\n" in shown
    assert "finished" in shown
    assert '    "data": 1\n' in shown
    assert 'result\n  {\n    "n": 1\n  }\n' in shown
    assert f"log\n  START RequestId: {good} Version: $LATEST\n  got 1\n" in shown
    failed = json.loads(broker(project.root, "show", bad, "--json").stdout)
    assert failed["reason"] == "ValueError"
    assert 'f.py", line 5, in handler' in failed["error"]
    assert failed["error"].endswith("ValueError: no good")
    assert failed["log"][1] == "got bad"
    assert failed["data"]["data"] == "bad"
    assert "begins with ffffff" in broker(project.root, "show", "ffffff", code=1).stderr


def test_an_invocation_is_listed_with_its_event_whatever_the_name_of_its_file_is_made_of(project):
    project.configure(CODE, ORDERS)
    (id_,) = project.push({"name": os.fsdecode(b"bad\xff")})
    (row,) = runs(project)
    assert (row["id"], row["source"]) == (id_, "q")
    assert row["event"]


def test_a_prefix_must_be_long_enough_and_name_one_alone(project):
    project.configure(CODE)
    project.push(*range(3))
    ids = [row["id"] for row in runs(project)]
    names = reading.queues(project.client)
    assert reading.resolve(project.client, names, ids[0][:6]) == ids[0]
    with pytest.raises(UnknownInvocation, match="at least 6"):
        reading.resolve(project.client, names, ids[0][:5])
    project.client.rpush("rq:queue:f", ids[0][:6] + "0" * 26)
    with pytest.raises(UnknownInvocation, match="2 invocations begin with"):
        reading.resolve(project.client, names, ids[0][:6])
    project.client.rpop("rq:queue:f")


def test_of_a_queue_of_any_length_only_the_end_is_read(project):
    project.configure(CODE)
    project.push(*range(2000))
    looked = project.client.info("commandstats")
    found = reading.recent(project.client, reading.queues(project.client), limit=5)
    assert [json.loads(reading.event(project.client, one))["data"] for one in found] == [1999, 1998, 1997, 1996, 1995]
    calls = project.client.info("commandstats")
    assert calls["cmdstat_hmget"]["calls"] - looked.get("cmdstat_hmget", {"calls": 0})["calls"] == 5


@pytest.fixture
def letters(project):
    """Five dead letters of f, and a project in which they would succeed now."""
    project.configure(CODE, retry={"attempts": 1})
    worker = project.worker()
    ids = project.push(*["bad"] * 5)
    for id in ids:
        project.ends(id, "failed")
    worker.terminate()
    worker.wait(30)
    return ids


def test_dead_letters_are_listed_replayed_and_dropped(project, letters):
    listed = json.loads(broker(project.root, "dead", "list", "--json", "-n", "3").stdout)
    assert len(listed) == 3
    assert listed == sorted(listed, key=lambda row: (row["accepted"], row["ended"]), reverse=True)
    assert broker(project.root, "dead", "replay", letters[0][:8], letters[1]).stdout == "2 dead letters replayed\n"
    assert [project.job(id)["status"] for id in letters[:3]] == ["queued", "queued", "failed"]
    assert "is no dead letter: it is queued" in broker(project.root, "dead", "drop", letters[0], code=1).stderr
    assert broker(project.root, "dead", "drop", letters[2]).stdout == "1 dead letter dropped\n"
    assert project.job(letters[2]) == {}
    assert "name the dead letters, or say --all" in broker(project.root, "dead", "drop", code=2).stderr
    for verb in ("drop", "replay"):
        refused = broker(project.root, "dead", verb, "--all", code=2).stderr
        assert f"{verb.title()} 2 dead letters? Nobody is there to say so: add --yes" in refused
    dropped = json.loads(broker(project.root, "dead", "drop", "--all", "--function", "f", "--yes", "--json").stdout)
    assert dropped == {"dropped": 2, "functions": {"f": 2}}
    assert broker(project.root, "dead", "list").stdout == "no dead letters\n"
    (project.root / "f.py").write_text("def handler(event, context): return 1\n")
    project.worker()
    project.ends(letters[0])


def test_on_a_terminal_all_are_touched_only_after_a_yes(project, letters):
    for answer, left in ((b"n\n", 5), (b"y\n", 0)):
        keyboard, terminal = pty.openpty()
        os.write(keyboard, answer)
        done = subprocess.run(
            [sys.executable, "-m", "broker", "dead", "drop", "--all"],
            cwd=project.root,
            env=environment(),
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        os.close(terminal)
        os.close(keyboard)
        assert "Drop 5 dead letters? [y/N]" in done.stderr
        assert done.returncode == (130 if left else 0)
        assert project.client.zcard("rq:failed:f") == left
