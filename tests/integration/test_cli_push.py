"""`broker push`, `broker emit` and `broker.push`: what is said to be pushed is in Redis; nothing goes in silence."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import broker as package
from broker.errors import ConfigError, EventError, QueueFull, StoreMissing, UnknownQueue
from tests.conftest import until
from tests.integration.command import ORDERS, broker, environment, started

IDLE = "def handler(event, context): pass\n"


def events(project, queue="f"):
    ids = [id.decode() for id in project.client.lrange(f"rq:queue:{queue}", 0, -1)]
    return [json.loads(project.job(id)["data"])[2][1] for id in ids]


def test_a_message_is_queued_once_under_its_id_and_its_priority(project):
    project.configure(IDLE, ORDERS)
    arguments = ("push", "orders", '{"sku": 7}', "--id", "o-1", "--priority", "high")
    assert broker(project.root, *arguments).stdout == "o-1\n"
    (event,) = events(project, "f.high")
    assert (event["id"], event["source"], event["type"], event["data"]) == (
        "o-1",
        "orders",
        "queue.message",
        {"sku": 7},
    )
    again = broker(project.root, *arguments, "--json")
    assert json.loads(again.stdout)["duplicate"] is True
    assert "1 of 1 had been pushed before" in again.stderr
    assert len(events(project, "f.high")) == 1


def test_a_delayed_message_waits_its_time(project):
    project.configure(IDLE, ORDERS)
    broker(project.root, "push", "orders", "1", "--delay", "5m")
    ((_, due),) = project.client.zrange("rq:scheduled:f", 0, -1, withscores=True)
    assert 200 < due - project.client.time()[0] < 301
    assert (
        'expected a duration such as "30s"'
        in broker(project.root, "push", "orders", "1", "--delay", "soon", code=2).stderr
    )


def test_each_line_of_the_standard_input_is_a_message(project):
    project.configure(IDLE, ORDERS)
    lines = "\n".join(map(str, range(1200)))
    done = broker(project.root, "push", "orders", given=f"{lines}\n\n")
    assert done.stderr == ""
    found = events(project)
    assert [event["data"] for event in found] == list(range(1200))
    assert done.stdout.split() == [event["id"] for event in found]


def test_a_line_is_pushed_at_once_while_the_input_goes_on(project):
    project.configure(IDLE, ORDERS)
    with started(project.root, "push", "orders", "-") as command:
        command.stdin.write('"first"\n')
        command.stdin.flush()
        until(lambda: project.client.llen("rq:queue:f") == 1)
        command.stdin.write('"second, without a line feed"')
        command.stdin.close()
        assert len(command.stdout.read().split()) == 2
        assert command.wait(30) == 0
    assert project.client.llen("rq:queue:f") == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"NaN", "not JSON: NaN is no JSON value"),
        (b"hello", "not JSON: Expecting value at column 1; a text needs quotes: '\"hello\"'"),
        (b'"\xff"', "not UTF-8: byte 2"),
        (b"1e999", "is not JSON"),
    ],
)
def test_a_line_that_is_no_message_ends_it_and_it_is_said_what_was_pushed(project, line, problem):
    project.configure(IDLE, ORDERS)
    done = broker(project.root, "push", "orders", given=b'1\n\n"two"\n' + line + b"\n5\n", code=1)
    assert done.stderr.startswith("Error: line 4: ")
    assert problem in done.stderr
    assert "2 pushed; nothing from line 4 on" in done.stderr
    assert [event["data"] for event in events(project)] == [1, "two"]


def test_a_full_queue_is_said_with_the_lines_that_were_not_pushed(project):
    project.configure(IDLE, ORDERS, max_queue=3)
    done = broker(project.root, "push", "orders", given="1\n2\n3\n4\n\n5\n", code=1)
    assert "queue 'f' is full (3 invocations wait); try again later" in done.stderr
    assert "3 pushed; not pushed: lines 4, 6, and nothing after line 6" in done.stderr
    assert len(done.stdout.split()) == 3
    assert "queue 'f' is full" in broker(project.root, "push", "orders", "7", code=1).stderr
    assert [event["data"] for event in events(project)] == [1, 2, 3]


def test_an_unknown_queue_is_wrong_usage_and_one_without_a_trigger_is_warned_about(project):
    project.configure(IDLE, '[sources.orders]\nkind = "queue"\n')
    assert (
        "there is no queue 'ordesr'; did you mean \"orders\"?"
        in broker(project.root, "push", "ordesr", "1", code=2).stderr
    )
    assert "no trigger has the source 'orders'" in broker(project.root, "push", "orders", "1").stderr


def test_an_event_is_emitted_as_if_a_source_had(project):
    project.configure(
        IDLE,
        "[[triggers]]\nsource = 'r'\nfunction = 'f'\npattern = { type = ['x.made'] }\n"
        '[sources.r]\nkind = "./quiet.py:Quiet"\n',
    )
    done = broker(project.root, "emit", "r", '{"n": 1}', "--type", "x.made", "--subject", "s", "--id", "e1")
    (event,) = events(project)
    del event["time"]
    assert event == {
        "specversion": "1.0",
        "id": "e1",
        "source": "r",
        "type": "x.made",
        "subject": "s",
        "data": {"n": 1},
    }
    assert project.job(done.stdout.strip())["status"] == "queued"
    whole = {"specversion": "1.0", "id": "e2", "source": "elsewhere", "type": "x.made", "data": 2}
    (project.root / "event.json").write_text(json.dumps(whole))
    receipt = json.loads(broker(project.root, "emit", "r", "@event.json", "--json").stdout)
    assert (receipt["event"], receipt["duplicate"], len(receipt["invocations"])) == ("e2", False, 1)
    assert events(project)[1]["source"] == "r"
    assert "matched no trigger" in broker(project.root, "emit", "r", "3").stderr


def test_a_program_pushes_from_many_threads_over_one_configuration(project):
    project.configure(IDLE, ORDERS, max_queue=40)
    path = project.root / "config.toml"
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda n: package.push("orders", {"n": n}, config=path), range(40)))
    assert sorted(event["id"] for event in events(project)) == sorted(ids)
    with pytest.raises(QueueFull):
        package.push("orders", 41, config=path)
    assert package.push("orders", 1, id="mine", priority="low", config=str(path)) == "mine"
    with pytest.raises(EventError, match="not JSON"):
        package.push("orders", float("nan"), config=path)
    with pytest.raises(UnknownQueue, match="did you mean"):
        package.push("order", 1, config=path)


def test_what_a_program_cannot_push_it_is_told_by_an_error_of_ours(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BROKER_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="no such file"):
        package.push("orders", 1, config=tmp_path / "nowhere.toml")
    (tmp_path / "config.toml").write_text('[sources.orders]\nkind = "queue"\n')
    with pytest.raises(StoreMissing, match="broker up"):
        package.push("orders", 1)


def test_importing_the_package_loads_nothing_else():
    code = "import sys, broker; print(*({'redis', 'rq', 'msgspec', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
