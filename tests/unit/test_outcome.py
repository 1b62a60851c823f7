"""Outcome: how an ended try becomes what the ledger writes."""

from __future__ import annotations

import json
import random
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from broker.attempt import Attempt
from broker.errors import EnvironmentDied, Exited, InitFailed, Killed, OutOfMemory, TimedOut
from broker.errors import verdicts as ways_to_fail
from broker.function import Batch, Function, Retry
from broker.ledger import Claimed, Order
from broker.outcome import Failure, fail, succeed, traceback_text
from broker.quantity import Duration


def function(**options):
    return Function(name="f", handler="f.py:handler", **options)


def claimed(id="a", *, failures=0, crashes=0, age=0.0, data=None):
    event = json.dumps({"id": f"event-{id}", "data": data}).encode()
    return Claimed(
        queue="f", id=id, execution=f"w.{id}", event=event, attempt=failures + 1, failures=failures, crashes=crashes,
        told=False, accepted_ms=int((time.time() - age) * 1000),
    )  # fmt: skip


def nothing(destination, event):
    return []


def verdicts(settlements):
    return [settlement.verdict for settlement in settlements]


BAD = Failure.raised(b'{"errorType":"ValueError","errorMessage":"no","stackTrace":["  File \\"f.py\\"\\n"]}')


@given(failures=st.integers(0, 5), attempts=st.integers(1, 5))
def test_it_is_tried_as_often_as_the_policy_says(failures, attempts):
    attempt = Attempt(function(retry=Retry(attempts=attempts)), [claimed(failures=failures)])
    (verdict,) = verdicts(fail(attempt, BAD, nothing))
    assert verdict == ("retry" if failures + 1 < attempts else "dead")


def test_what_would_be_too_old_at_its_next_try_is_a_dead_letter_now():
    policy = Retry(attempts=9, backoff="fixed", base=Duration(30), jitter=False)
    young = Attempt(function(retry=policy, max_age=Duration(60)), [claimed(age=20)])
    old = Attempt(function(retry=policy, max_age=Duration(60)), [claimed(age=40)])
    assert verdicts(fail(young, BAD, nothing) + fail(old, BAD, nothing)) == ["retry", "dead"]


def test_three_crashes_make_a_dead_letter_whatever_the_retry_policy_says():
    crash = Failure.of(EnvironmentDied("exited with status 3"))
    ends = [
        verdicts(fail(Attempt(function(retry=Retry(attempts=99)), [claimed(crashes=crashes)]), crash, nothing))
        for crashes in range(3)
    ]
    assert ends == [["retry"], ["retry"], ["dead"]]
    assert not Failure.of(TimedOut("late")).crashed


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        (BAD, 4),
        (Failure.raised(b'{"errorType":"OutOfMemory"}'), 1),
        (Failure.of(OutOfMemory("grew")), 1),
        (Failure.of(TimedOut("late")), 2),
        (Failure.of(InitFailed("no")), 5),
    ],
)
def test_how_often_it_is_tried_may_hang_on_how_it_ended(failure, tries):
    policy = Retry(attempts=5, by={"OutOfMemory": 1, "TimedOut": 2, "HandlerFailed": 4})
    ends = [
        verdicts(fail(Attempt(function(retry=policy), [claimed(failures=failures)]), failure, nothing))[0]
        for failures in range(5)
    ]
    assert ends == ["retry"] * (tries - 1) + ["dead"] * (6 - tries)


def test_only_ways_to_fail_that_may_be_tried_again_can_be_told_apart():
    assert {"WorkerLost", "Foreign", "Expired", "Stopped", "FunctionError"}.isdisjoint(ways_to_fail())
    assert {"HandlerFailed", "OutOfMemory", "Killed"} <= set(ways_to_fail())


def test_what_is_said_of_all_ways_to_lose_an_environment_holds_for_each_unless_that_one_is_named():
    policy = Retry(attempts=9, by={"EnvironmentDied": 1, "Killed": 3})
    died, exited, killed = (policy.tries(Failure.of(kind("x")).verdicts) for kind in (EnvironmentDied, Exited, Killed))
    assert (died, exited, killed) == (1, 1, 3)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, ["finished"] * 3),
        ({"batchItemFailures": []}, ["finished"] * 3),
        ({"batchItemFailures": [{"itemIdentifier": "event-b"}]}, ["finished", "retry", "finished"]),
        ({"batchItemFailures": [{"itemIdentifier": "unknown"}]}, ["retry"] * 3),
        ({"batchItemFailures": [{}]}, ["retry"] * 3),
        ({"batchItemFailures": "event-b"}, ["retry"] * 3),
    ],
)
def test_a_batchs_partial_answer_is_read_as_aws_lambda_does(answer, expected):
    attempt = Attempt(function(batch=Batch(size=3)), [claimed("a"), claimed("b"), claimed("c")])
    assert verdicts(succeed(attempt, json.dumps(answer).encode(), nothing, duration_ms=1, used=0)) == expected


def test_a_batch_is_billed_once():
    attempt = Attempt(function(batch=Batch(size=2)), [claimed("a"), claimed("b")])
    settlements = succeed(attempt, b"null", nothing, duration_ms=1.2, used=0)
    assert [settlement.billed_ms for settlement in settlements] == [2, None]


def test_of_a_batch_all_is_settled_at_once_of_which_there_is_nothing_else_to_tell():
    batch = [replace(claimed(id), execution="w.1") for id in "abcdef"]
    batch[1] = replace(batch[1], attempt=2)
    batch[2] = replace(batch[2], told=True)
    batch[3], batch[4] = (replace(one, queue="f.high") for one in batch[3:5])
    attempt = Attempt(function(batch=Batch(size=6)), batch)
    settlements = succeed(attempt, b"null", nothing, duration_ms=1.2, used=0)
    assert [(one.queue, *one.ids) for one in settlements] == [
        ("f", "b"),
        ("f", "c"),
        ("f", "a", "f"),
        ("f.high", "d", "e"),
    ]
    assert [one.billed_ms for one in settlements] == [2, None, None, None]
    assert [(one.again, one.told) for one in settlements] == [(True, False), (False, True), *[(False, False)] * 2]


def test_the_payload_is_the_event_its_data_or_a_list_of_them():
    one, two = claimed("a", data=1), claimed("b", data="\udc80")
    assert json.loads(Attempt(function(), [one]).payload())["data"] == 1
    assert Attempt(function(payload="data"), [one]).payload() == b"1"
    assert json.loads(Attempt(function(payload="data", batch=Batch()), [one, two]).payload()) == [1, "\udc80"]


@pytest.mark.parametrize(("how", "key"), [("on_success", "result"), ("on_failure", "error")])
def test_a_destination_gets_the_event_and_what_became_of_it(how, key):
    seen = []

    def follow(destination, event):
        seen.append((destination, event))
        return [Order(queue="g", id="x", data=b"")]

    attempt = Attempt(function(retry=Retry(attempts=1), **{how: "queue:later"}), [claimed(data="\udc80")])
    if how == "on_success":
        (settlement,) = succeed(attempt, b"[7]", follow, duration_ms=1, used=0)
    else:
        (settlement,) = fail(attempt, BAD, follow)
    ((destination, event),) = seen
    assert destination == "queue:later"
    assert event.id == "a-1"
    assert event.data["event"]["data"] == "\udc80"
    assert event.data[key] in ([7], msgspec.json.decode(BAD.body))
    assert len(settlement.orders) == 1
    event.encode()


@pytest.mark.parametrize("body", [b"[" * 100_000 + b"]" * 100_000, b"[" * 5000, b"not json", b"\xff"])
def test_a_destination_is_owed_also_what_it_cannot_be_told(body):
    """The body comes from the function's process, which may write what it likes."""

    def follow(destination, event):
        return [Order(queue=destination, id="x", data=event.encode())]

    attempt = Attempt(function(on_success="g", on_failure="g", retry=Retry(attempts=1)), [claimed()])
    (settlement,) = succeed(attempt, body, follow, duration_ms=1, used=0)
    assert json.loads(settlement.orders[0].data)["data"]["result"] is None
    assert any("g is not told the result" in line.text for line in attempt.take_lines())
    (settlement,) = fail(attempt, Failure(reason="X", body=body), follow)
    assert json.loads(settlement.orders[0].data)["data"]["error"] is None


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[" * 100_000, b"not json \xff", b'{"errorType": 7}', b'{"errorType":"\\ud800"}']
)
def test_an_error_that_cannot_be_read_is_an_error_all_the_same(body):
    failure = Failure.raised(body)
    assert failure.reason == "Unreadable"
    assert json.loads(failure.body)["errorMessage"].startswith("an error that cannot be read: ")
    assert len(Failure.raised(b'{"errorType":"' + b"x" * 10_000 + b'"}').reason) == 200


def test_a_batchs_answer_that_cannot_be_read_fails_it():
    attempt = Attempt(function(batch=Batch(size=1)), [claimed("a")])
    answer = b'{"batchItemFailures":' + b"[" * 100_000
    assert verdicts(succeed(attempt, answer, nothing, duration_ms=1, used=0)) == ["retry"]


def test_an_error_is_kept_as_a_traceback_for_rq():
    assert traceback_text(BAD.body) == '  File "f.py"\nValueError: no'
    assert traceback_text(b"not json") == "not json"


@given(failures=st.integers(1, 200), seed=st.integers())
def test_backoff_grows_to_its_maximum_and_jitter_takes_at_most_half(failures, seed):
    policy = Retry(base=Duration(1), max=Duration(60))
    full = min(60.0, 2.0 ** min(failures - 1, 64))
    assert full / 2 <= policy.delay(failures, random.Random(seed)) <= full


def test_a_list_of_waits_repeats_its_last():
    policy = Retry(backoff=[Duration(1), Duration(5)], jitter=False)
    assert [policy.delay(n) for n in (1, 2, 3, 9)] == [1, 5, 5, 5]
