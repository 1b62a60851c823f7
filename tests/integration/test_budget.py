"""Budgets: what has used up its own is told once, and waits if it is to stop; nothing is lost."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import pytest

from broker.budget import ALL, Budgets
from broker.usage import days
from tests.conftest import until
from tests.integration.command import broker

CODE = """
import time
def handler(event, context): time.sleep(0.04 if context.function_name == "f" else 0)
"""
OTHER = """
[functions.g]
handler = "f.py:handler"
[[triggers]]
source = "q"
function = "g"
"""
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def use(client, day, function="f", *, requests=0, gb_seconds=0):
    fields = {"requests": requests, "mb_ms": gb_seconds * 1024 * 1000}
    client.hset(f"broker:usage:{day}:{function}", mapping=fields)


def budgets(project, tables="", **options):
    project.configure(CODE, tables, **options)
    return Budgets(project.config)


def requests(project, function="f"):
    return int(project.client.hget(f"broker:usage:{datetime.now(UTC).date()}:{function}", "requests") or 0)


def beats(project, count=2):
    """Wait until the one worker has looked that often."""
    for _ in range(count):
        before = project.client.zrange("broker:workers", 0, -1, withscores=True)
        until(lambda before=before: project.client.zrange("broker:workers", 0, -1, withscores=True) != before)


def test_a_function_that_has_used_up_its_budget_waits_until_it_gets_more(project):
    budget = {"requests": 5, "per": "day", "then": "stop"}
    project.configure(CODE, OTHER, budget=budget, concurrency=1)
    ids = project.push(*range(150))
    worker = project.worker()
    until(lambda: requests(project) >= 5)
    beats(project)
    until(lambda: project.client.zcard("rq:wip:f") == 0)
    ran = requests(project)
    assert 5 <= ran < 150
    until(lambda: requests(project, "g") == 150, within=60)  # others go on
    beats(project)
    assert (requests(project), project.client.llen("rq:queue:f")) == (ran, 150 - ran)
    (row,) = json.loads(broker(project.root, "status", "--json").stdout)["budgets"]
    assert (row["name"], row["state"], row["requests"], row["requests_limit"]) == ("f", "stopped", ran, 5)
    assert "stopped" in broker(project.root, "status").stdout
    said = broker(project.root, "usage").stderr
    assert f"the budget of f for this day is used up ({ran} of 5 requests); it waits until" in said
    worker.terminate()
    worker.wait(30)
    project.configure(CODE, OTHER, budget={**budget, "requests": 1000})
    project.worker()
    for id in ids:
        project.ends(id, within=60)


def test_a_redis_that_is_full_takes_no_note_that_it_was_told_and_runs_what_else_there_is(project):
    project.configure(CODE, OTHER, budget={"requests": 10, "per": "day", "then": "stop"})
    use(project.client, str(datetime.now(UTC).date()), requests=10)
    project.push(*range(20))
    project.client.config_set("maxmemory", 1)
    try:
        project.worker()
        until(lambda: requests(project, "g") == 20)
    finally:
        project.client.config_set("maxmemory", 0)
    until(lambda: project.client.exists(f"broker:budget:f:{datetime.now(UTC).date()}"))


def test_a_warning_stops_nothing(project):
    project.configure(CODE, budget={"requests": 1})
    project.push(*range(20))
    project.worker()
    until(lambda: requests(project) == 20)
    beats(project)
    project.ends(project.push("one more")[0])
    (row,) = json.loads(broker(project.root, "status", "--json").stdout)["budgets"]
    assert row["state"] == "used up"


@pytest.mark.parametrize(("per", "until_day"), [("day", date(2026, 11, 24)), ("month", date(2026, 12, 1))])
def test_a_budget_begins_anew_with_the_day_or_month(project, per, until_day):
    given = budgets(project, budget={"requests": 10, "per": per, "then": "stop"})
    use(project.client, "2026-11-23", requests=10)
    waiting, (news,) = given.stopped(project.client, NOW)
    assert (waiting, news.until) == ({"f"}, until_day)
    later = datetime.combine(until_day, datetime.min.time(), UTC)
    assert given.stopped(project.client, later) == (set(), [])


def test_a_month_is_the_sum_of_its_days(project):
    given = budgets(project, budget={"gb_seconds": 10, "then": "stop"})
    for day in days(NOW.date(), 30):  # seven of them are of October
        use(project.client, day, gb_seconds=1)
    (account,) = given.accounts(project.client, NOW)
    assert account.used.gb_seconds == 23
    assert account.state == "stopped"
    use(project.client, "2026-11-23", gb_seconds=2)
    assert given.accounts(project.client, NOW)[0].used.gb_seconds == 24


def test_the_budget_of_all_functions_holds_all_of_them(project):
    project.configure(CODE, OTHER)
    text = (project.root / "config.toml").read_text()
    budget = 'budget = { requests = 10, per = "day", then = "stop" }'
    (project.root / "config.toml").write_text(text.replace("[broker]\n", f"[broker]\n{budget}\n"))
    given = Budgets(project.config)
    use(project.client, "2026-11-23", "f", requests=4)
    use(project.client, "2026-11-23", "g", requests=5)
    assert given.stopped(project.client, NOW) == (set(), [])
    use(project.client, "2026-11-23", "g", requests=6)
    waiting, (news,) = given.stopped(project.client, NOW)
    assert (waiting, news.name) == ({"f", "g"}, ALL)
    assert "the budget of all functions for this day is used up (10 of 10 requests)" in str(news)


def test_that_a_budget_is_used_up_is_told_once_by_all_workers_together(project):
    one = budgets(project, budget={"requests": 1})
    other = Budgets(project.config)
    use(project.client, "2026-11-23", requests=1)
    told = [len(each.stopped(project.client, NOW)[1]) for each in (one, other, one, other)]
    assert told == [1, 0, 0, 0]
