"""`broker invoke`: a function is run past all triggers, seen while it runs, and its end is the command's."""

from __future__ import annotations

import json
import signal

from rq.job import Job
from rq.serializers import JSONSerializer

from tests.conftest import until
from tests.integration.command import broker, started

CODE = """
import logging, time
def handler(event, context):
    print("got", event["data"])
    if event["data"] == "slow":
        time.sleep(2)
    if event["data"] == "bad":
        raise ValueError(f"no {context.attempt}")
    return {"type": event["type"], "source": event["source"], "data": event["data"]}
"""
QUICK = {"attempts": 2, "backoff": "fixed", "base": "10ms"}


def test_what_it_prints_and_returns_is_seen(project):
    project.configure(CODE)
    project.worker()
    done = broker(project.root, "invoke", "f", '{"n": 1}')
    assert json.loads(done.stdout) == {"type": "invoke", "source": "cli", "data": {"n": 1}}
    lines = done.stderr.splitlines()
    assert lines[0].startswith("START RequestId: ")
    assert lines[1] == "got {'n': 1}"
    assert lines[-2].startswith("END RequestId: ")
    assert lines[-1].startswith("REPORT RequestId: ")
    event = {"specversion": "1.0", "id": "e1", "source": "s", "type": "t", "data": 5}
    (project.root / "event.json").write_text(json.dumps(event))
    done = broker(project.root, "invoke", "f", "@event.json", "--event")
    assert json.loads(done.stdout) == {"type": "t", "source": "s", "data": 5}
    done = broker(project.root, "invoke", "f", "-", "--event", given=json.dumps(event), code=1)
    assert "was given event 'e1' of 's' before: see `broker show " in done.stderr


def test_the_handler_is_told_the_callers_client_context_at_every_attempt(project):
    project.configure(
        """
        def handler(event, context):
            if context.attempt == 1:
                raise ValueError("again")
            return [context.client_context.custom, event["data"]]
        """,
        retry=QUICK,
    )
    project.worker()
    done = broker(project.root, "invoke", "f", "7", "--client-context", '{"custom": {"who": "ä"}}')
    assert json.loads(done.stdout) == [{"who": "ä"}, 7]
    shown = json.loads(broker(project.root, "runs", "--json").stdout)
    assert [one["source"] for one in shown] == ["cli"]  # the event is read past the context
    done = broker(project.root, "invoke", "f", "7", "--client-context", "[1]", code=2)
    assert "--client-context: expected a JSON object, got [1]" in done.stderr


def test_a_failure_is_its_exit_code_after_the_last_retry(project):
    project.configure(CODE, retry=QUICK)
    project.worker()
    done = broker(project.root, "invoke", "f", '"bad"', code=1)
    assert done.stdout == ""
    assert done.stderr.count("got bad\n") == 2
    assert done.stderr.endswith("Error: ValueError: no 2\n")


def test_one_that_is_not_waited_for_is_only_queued(project):
    project.configure(CODE)
    done = broker(project.root, "invoke", "f", "1", "--async")
    assert project.job(done.stdout.strip())["status"] == "queued"
    assert "no worker runs; start one with `broker up`" in done.stderr
    done = broker(project.root, "invoke", "f", "1", "--timeout", "100ms", code=1)
    assert "It has not ended within 100ms: see `broker show " in done.stderr
    assert 'did you mean "f"?' in broker(project.root, "invoke", "F", "1", code=2).stderr
    assert project.client.llen("rq:queue:f") == 2


def test_ctrl_c_leaves_it_running_and_says_under_which_id(project):
    project.configure(CODE)
    project.worker()
    with started(project.root, "invoke", "f", '"slow"') as command:
        assert command.stderr.readline().startswith("START ")
        command.send_signal(signal.SIGINT)
        rest = command.stderr.read()
        assert command.wait(30) == 130
    id = rest.partition("It goes on: see `broker show ")[2].partition("`")[0]
    assert project.job(id)["status"] == "started"
    project.ends(id)


def test_an_outcome_that_was_told_while_nobody_heard_is_found_in_the_record(project):
    project.configure(CODE, retry={"attempts": 1})
    with started(project.root, "invoke", "f", '"bad"') as command:
        assert "no worker" in command.stderr.readline()
        until(lambda: project.client.llen("rq:queue:f") == 1)
        (id,) = project.client.lrange("rq:queue:f", 0, 0)
        project.client.hdel(b"rq:job:" + id, "reply")
        project.worker()
        assert command.wait(30) == 1
        assert command.stderr.read().endswith("Error: ValueError: no 1\n")


def test_one_that_rq_s_tools_cancel_is_waited_for_no_longer(project):
    project.configure(CODE)
    with started(project.root, "invoke", "f", "1") as command:
        assert "no worker" in command.stderr.readline()
        until(lambda: project.client.llen("rq:queue:f") == 1)
        (id,) = project.client.lrange("rq:queue:f", 0, 0)
        Job.fetch(id.decode(), connection=project.client, serializer=JSONSerializer).cancel()
        assert command.wait(30) == 1
        assert command.stderr.read().endswith("Error: Canceled: RQ's tools cancelled it\n")
