"""Metering: what functions used is what their attempts used, and balances with the ledger."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rq.command import send_stop_job_command
from rq.serializers import JSONSerializer

from broker.ledger import Ledger, Order, Settlement, Want, audit
from broker.ledger.jobs import job_data
from broker.ledger.values import FULL
from broker.usage import Usage, usage
from tests.conftest import until

REPORT = re.compile(r"REPORT RequestId: (\S+)\tDuration: \S+ ms\tBilled Duration: (\d+) ms.*")


def used(client, function="f"):
    return usage(client, [function], [datetime.now(UTC).date()], "function").get(function, Usage())


def order(id, **more):
    return Order(queue="f", id=id, data=job_data("f", b"{}"), **more)


steps = st.lists(
    st.tuples(
        st.sampled_from(["finished", "retry", "dead", "release"]),
        st.integers(1, 5000),  # billed ms
        st.booleans(),  # cold
        st.sampled_from(["held", "lost", "unbilled"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(steps)
def test_usage_balances_with_what_was_settled_and_with_nothing_else(redis_client, steps):
    redis_client.flushall()
    ledger = Ledger(redis_client)
    ledger.publish([[order(f"i{number}")] for number in range(len(steps))])
    billed = []
    for number, (verdict, ms, cold, how) in enumerate(steps):
        (claimed,) = ledger.claim("w", [Want(function="f", queues=("f",), most=1)], number).claimed
        failed = verdict in {"retry", "dead"}
        meter = None if verdict == "release" or how == "unbilled" else ms
        settlement = Settlement(
            verdict=verdict, queue="f", id=claimed.id, execution="w.ffff" if how == "lost" else claimed.execution,
            billed_ms=meter, megabytes=512, cold=cold, failed=failed, delay=1000 if verdict == "retry" else 0,
        )  # fmt: skip
        assert ledger.settle("w", [settlement]) == [how != "lost"]
        if how == "lost":
            ledger.recover(dead=["w"])
        elif meter is not None:
            billed.append((verdict, ms, cold))
    found, (books,) = used(redis_client), audit(redis_client)
    assert books.missing == 0
    assert found.requests == len(billed)
    assert found.errors == sum(verdict != "finished" for verdict, _, _ in billed)
    assert found.billed_ms == sum(ms for _, ms, _ in billed)
    assert found.mb_ms == 512 * found.billed_ms
    assert found.cold_starts == sum(cold for _, _, cold in billed)
    assert found.requests - found.errors <= books.finished


CODE = """
import os, time
def handler(event, context):
    data = [one["data"] for one in event] if isinstance(event, list) else event["data"]
    if data == "bad" or (data == "once" and context.attempt == 1):
        raise ValueError("no")
    if data == "slow":
        time.sleep(60)
    if data == "exit":
        os._exit(3)
    if data == "exact":
        return data
    if "half" in data:
        return {"batchItemFailures": [{"itemIdentifier": one["id"]} for one in event if one["data"] == "half"]}
"""


def recount(lines):
    """Return what the REPORT lines say."""
    reports = [match for line in lines if (match := REPORT.fullmatch(line))]
    return {
        "requests": len(reports),
        "errors": sum("Status: " in match[0] for match in reports),
        "billed_ms": sum(int(match[2]) for match in reports),
        "cold_starts": sum("Init Duration" in match[0] for match in reports),
    }


def figures(found):
    return {name: getattr(found, name) for name in ("requests", "errors", "billed_ms", "cold_starts")}


def test_usage_is_what_the_report_lines_say_however_attempts_end(project):
    project.configure(
        CODE, timeout="1s", memory="128MB", retry={"attempts": 2, "backoff": "fixed", "base": 0, "jitter": False}
    )
    project.worker()
    ids = project.push("", "bad", "once", "exact", "exit", "slow", *["fine"] * 40)
    wanted = {1: "failed", 4: "failed", 5: "failed"}
    for number, id in enumerate(ids):
        project.ends(id, wanted.get(number, "finished"), within=30)
    (stopped,) = project.push("slow")
    until(lambda: project.job(stopped).get("status") == "started")
    until(lambda: any("START" in line for line in project.lines(stopped)))
    send_stop_job_command(project.client, stopped, serializer=JSONSerializer)
    project.ends(stopped, "stopped")
    found = used(project.client)
    assert figures(found) == recount(project.lines())
    assert (found.requests, found.errors) == (51, 8)
    assert found.mb_ms == 128 * found.billed_ms
    assert found.log_bytes == sum(len(entry[b"l"]) for _, entry in project.client.xrange("broker:logs:f"))


def test_a_batch_is_one_request_and_one_that_fails_in_part_is_one_error(project):
    project.configure(CODE, batch={"size": 3, "window": "300ms"}, retry={"attempts": 1})
    ids = project.push("a", "half", "half")
    project.worker()
    assert [project.ends(id, end)["status"] for id, end in zip(ids, ("finished", "failed", "failed"), strict=True)]
    found = used(project.client)
    assert (found.requests, found.errors) == (1, 1)
    assert figures(found) == recount(project.lines())


@pytest.mark.parametrize("how", ["itself", "a child"])
def test_processor_time_is_that_of_the_environment_and_its_children(project, how):
    spin = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    (project.root / "spin.py").write_text(spin)
    project.configure(
        """
        import runpy, subprocess, sys, time
        def handler(event, context):
            time.sleep(0.3)
            if event["data"] == "a child":
                subprocess.run([sys.executable, "spin.py"], check=True)
            else:
                runpy.run_path("spin.py")
        """
    )
    project.worker()
    project.ends(project.push(how)[0])
    assert 0.3 <= used(project.client).cpu_seconds < 0.3 + used(project.client).billed_seconds


def test_processor_time_of_an_attempt_that_was_killed_is_told_too(project):
    project.configure("def handler(event, context):\n    while True: pass\n", timeout="300ms", retry={"attempts": 1})
    project.worker()
    project.ends(project.push(1)[0], "failed")
    assert used(project.client).cpu_seconds > 0


def test_however_short_attempts_are_all_their_processor_time_is_told_in_the_end(project):
    project.configure("import time\ndef handler(event, context): return time.process_time()\n", keep_warm="100ms")
    project.worker()
    ids = project.push(*range(300))
    for id in ids:
        project.ends(id)
    spent = max(project.result(id) for id in ids)  # of one environment, by its own clock
    until(lambda: used(project.client).cpu_seconds >= spent - 0.001, what="the rest is told at the environment's end")


def test_what_a_full_queue_refuses_is_a_throttle(redis_client):
    ledger = Ledger(redis_client)
    answers = ledger.publish([[order(f"i{number}", max_queue=2)] for number in range(5)])
    assert answers.count([FULL]) == 3
    assert used(redis_client) == Usage(throttles=3)


def test_usage_is_forgotten_after_four_hundred_days_and_the_books_never(redis_client):
    ledger = Ledger(redis_client)
    ledger.publish([[order("a")]])
    (claimed,) = ledger.claim("w", [Want(function="f", queues=("f",), most=1)], 1).claimed
    settlement = Settlement(
        verdict="finished", queue="f", id="a", execution=claimed.execution, billed_ms=1, megabytes=128
    )
    ledger.settle("w", [settlement], cpu={"f": 7})
    (key,) = redis_client.keys("broker:usage:*")
    assert 399 * 86400 < redis_client.ttl(key) <= 400 * 86400
    assert redis_client.ttl("broker:books:f") == -1
    assert used(redis_client).cpu_us == 7


def test_processor_time_is_counted_even_when_no_lease_is_held_any_more(redis_client):
    ledger = Ledger(redis_client)
    assert ledger.settle("w", [Settlement(verdict="finished", queue="f", id="x", execution="w.1")], cpu={"f": 5}) == [
        False
    ]
    assert used(redis_client).cpu_us == 5
