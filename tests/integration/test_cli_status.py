"""`broker status`, `audit` and `usage`: what is told is what is in Redis."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from broker.ledger.inspection import Misplaced, misplaced
from broker.usage import Usage, days, usage
from tests.conftest import until
from tests.integration.command import ORDERS, broker

CODE = "def handler(event, context):\n    return 1 / event['data']\n"


def test_status_tells_of_redis_workers_functions_and_sources(project):
    project.configure(CODE, ORDERS, retry={"attempts": 1})
    project.worker(name="bee")
    project.ends(project.push(1)[0])
    project.ends(project.push(0)[0], "failed")
    project.push(1, delay=60, track=True)
    project.client.rpush("broker:queue:orders:bad", "x")
    project.client.rpush("rq:queue:another-program", "job")
    project.client.sadd("rq:queues", "rq:queue:another-program")
    state = json.loads(broker(project.root, "status", "--json").stdout)
    assert state["redis"]["where"] == project.url
    assert state["redis"]["version"].startswith("Valkey ")
    assert [(worker["name"], worker["state"]) for worker in state["workers"]] == [("bee", "idle")]
    assert 0 < state["workers"][0]["lease"] <= 4
    assert state["functions"] == [
        {
            "name": "f",
            "queued": 0,
            "scheduled": 1,
            "deferred": 0,
            "leased": 0,
            "dead": 1,
            "finished": 1,
            "configured": True,
        }
    ]
    assert state["sources"] == [
        {"name": "q", "kind": "./quiet.py:Quiet", "open": 1, "waiting": None, "bad": None},
        {"name": "orders", "kind": "queue", "open": 0, "waiting": 0, "bad": 1},
    ]
    screen = broker(project.root, "status").stdout
    assert (
        "functions:\n"
        "NAME  QUEUED  SCHEDULED  DEFERRED  LEASED  DEAD  FINISHED\n"
        "f          0          1         0       0     1         1\n" in screen
    )
    assert "bee " in screen
    project.client.srem("rq:queues", "rq:queue:another-program")


def test_a_worker_that_died_is_lost_for_as_long_as_rq_remembers_it(project):
    project.configure(CODE)
    dead = project.worker(name="dead")
    project.worker(name="alive")
    dead.kill()
    dead.wait()
    until(lambda: project.client.zscore("broker:workers", "dead") is None)  # the other one has noticed
    state = json.loads(broker(project.root, "status", "--json").stdout)
    assert [(one["name"], one["state"]) for one in state["workers"]] == [("alive", "idle"), ("dead", "lost")]


def test_the_audit_fails_when_something_is_missing_and_says_of_which_queue(project):
    project.configure(CODE)
    (id,) = project.push(1)
    assert "The books balance." in broker(project.root, "audit").stdout
    project.client.lrem("rq:queue:f", 1, id)
    assert "The books of f do not balance" in broker(project.root, "audit", code=1).stderr
    deep = json.loads(broker(project.root, "audit", "--deep", "--json", code=1).stdout)
    assert (deep["balanced"], deep["queues"][0]["missing"]) == (False, 1)
    assert deep["misplaced"] == [{"id": id, "status": "queued", "queue": "f", "found": []}]
    project.client.rpush("rq:queue:f", id)
    assert broker(project.root, "audit", "--deep").stdout.endswith("The books balance.\n")


@pytest.mark.parametrize(
    ("harm", "heal", "found"),
    [
        (("RPUSH", "rq:queue:f", "ID"), ("RPOP", "rq:queue:f"), ("rq:queue:f", "rq:queue:f")),
        (("ZADD", "rq:failed:f", 1, "ID"), ("ZREM", "rq:failed:f", "ID"), ("rq:queue:f", "rq:failed:f")),
        (("ZADD", "rq:wip:f", 1, "ID:x"), ("ZREM", "rq:wip:f", "ID:x"), ("rq:queue:f", "rq:wip:f")),
        (("HSET", "rq:job:ID", "status", "failed"), ("HSET", "rq:job:ID", "status", "queued"), ("rq:queue:f",)),
    ],
)
def test_the_deep_audit_finds_what_is_in_a_wrong_place_or_in_two(project, harm, heal, found):
    project.configure(CODE)
    ids = project.push(*range(3))
    assert list(misplaced(project.client, ["f"])) == []

    def run(command):
        project.client.execute_command(*[str(word).replace("ID", ids[1]) for word in command])

    run(harm)
    (wrong,) = misplaced(project.client, ["f"])
    assert (wrong.id, sorted(wrong.found)) == (ids[1], sorted(found))
    run(heal)
    assert list(misplaced(project.client, ["f"])) == []


def test_the_deep_audit_finds_an_entry_without_a_record(project):
    project.configure(CODE)
    project.push(1)
    project.client.rpush("rq:queue:f", "nobody")
    assert list(misplaced(project.client, ["f"])) == [
        Misplaced(id="nobody", status="", queue="", found=("rq:queue:f",))
    ]
    project.client.rpop("rq:queue:f")


def test_usage_adds_up_what_was_billed(project):
    project.configure(CODE, retry={"attempts": 1}, memory="512MB", max=1)
    project.worker()
    for id in project.push(1, 2):
        project.ends(id)
    project.ends(project.push(0)[0], "failed")
    row, sums = json.loads(broker(project.root, "usage", "--json").stdout)
    assert sums == {**row, "function": "(total)"}
    assert (row["function"], row["requests"], row["errors"], row["cold_starts"]) == ("f", 3, 1, 1)
    assert row["billed_seconds"] >= 0.003
    assert row["gb_seconds"] == pytest.approx(row["billed_seconds"] / 2)
    line, last = csv.DictReader(io.StringIO(broker(project.root, "usage", "--by", "day", "--csv").stdout))
    assert last == {**line, "day": "(total)"}
    assert line["day"] == datetime.now(UTC).date().isoformat()
    assert int(line["requests"]) == 3


def test_usage_is_priced_as_at_aws_and_what_is_free_is_free_in_each_month(project):
    project.configure(CODE)
    today = datetime.now(UTC).date()
    big = days(today, 40)[0]  # of another month
    for day, requests, gb_seconds in ((today, 3_000_000, 500_000), (big, 1_000_000, 100_000)):
        used = {"requests": requests, "mb_ms": gb_seconds * 1024 * 1000}
        project.client.hset(f"broker:usage:{day}:f", mapping=used)
    given = ("usage", "--since", "40d", "--json", "--price")
    (project.root / "plain.toml").write_text("million_requests = 0.2\ngb_second = 0.00001\ncurrency = 'EUR'\n")
    row, sums = json.loads(broker(project.root, *given, "plain.toml").stdout)
    assert row["cost_eur"] == sums["cost_eur"] == pytest.approx(4 * 0.2 + 600_000 * 0.00001)
    shipped = Path(__file__).parents[2] / "prices.toml"
    row, free, sums = json.loads(broker(project.root, *given, str(shipped)).stdout)
    assert row["cost_usd"] == pytest.approx(4 * 0.2 + 600_000 * 0.0000166667, abs=1e-6)
    assert free["function"] == "(free)"
    assert free["cost_usd"] == pytest.approx(-(2 * 0.2 + 500_000 * 0.0000166667), abs=1e-6)
    assert sums["cost_usd"] == pytest.approx(row["cost_usd"] + free["cost_usd"], abs=1e-6)
    assert "(total)" in broker(project.root, *given[:3], "--price", str(shipped)).stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gb_second = 1", "missing required field `million_requests`"),
        ("million_requests = 1\ngb_second = -1", "`float` >= 0.0 - at `$.gb_second`"),
        ("million_requests = 1\ngb_second = 1\nfrei = 1", "unknown field `frei`"),
        ("million_requests = ", "prices.toml: Invalid value"),
    ],
)
def test_a_file_of_prices_that_is_wrong_is_told_so(project, text, said):
    project.configure(CODE)
    (project.root / "prices.toml").write_text(text)
    error = broker(project.root, "usage", "--price", "prices.toml", code=2).stderr
    assert "prices.toml: " in error
    assert said in error


def test_usage_is_summed_over_the_days_asked_for(redis_client):
    for day, requests in (("2026-11-20", 1), ("2026-11-22", 2), ("2026-11-23", 4)):
        redis_client.hset(f"broker:usage:{day}:f", mapping={"requests": requests, "mb_ms": 1024})
    period = days(date(2026, 11, 23), 2)
    assert period == [date(2026, 11, 22), date(2026, 11, 23)]
    assert usage(redis_client, ["f", "g"], period, "function") == {"f": Usage(requests=6, mb_ms=2048)}
    assert usage(redis_client, ["f"], period, "day") == {
        "2026-11-22": Usage(requests=2, mb_ms=1024),
        "2026-11-23": Usage(requests=4, mb_ms=1024),
    }
    assert Usage(mb_ms=1024 * 1000).gb_seconds == 1
