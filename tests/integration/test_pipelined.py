"""Calls that go out one behind another: each answer reaches whoever asked, also behind one that is an error."""

from __future__ import annotations

import selectors

import pytest
from redis.exceptions import ResponseError

from broker.errors import StoreUnavailable
from broker.ledger import Ledger, calls
from broker.ledger.pipelined import Pipelined
from broker.ledger.values import Recovery, Want

WANT = Want(function="f", queues=("f",), most=1)


@pytest.fixture
def pipelined(redis_client):
    with selectors.DefaultSelector() as selector:
        pipelined = Pipelined(Ledger(redis_client), selector, lambda: None)
        yield pipelined
        pipelined.hang_up()


def test_an_error_is_an_answer_and_those_behind_it_are_for_whom_they_were(pipelined, redis_client):
    redis_client.set("rq:queue:f", "no list")
    answers = []
    pipelined.send(calls.claim("w", [WANT], 0), answers.append)
    pipelined.send(calls.recover("w", 4, ()), answers.append)
    pipelined.flush()
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        pipelined.hear()
    pipelined.finish()
    (answer,) = answers
    assert isinstance(answer, Recovery)
    assert answer.workers == ["w"]


def test_a_connection_that_is_closed_while_nothing_is_asked_is_an_outage(pipelined, redis_client):
    pipelined.send(calls.recover("w", 4, ()), lambda _: None)
    pipelined.finish()
    redis_client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(StoreUnavailable, match="closed"):
        pipelined.hear()
    pipelined.hang_up()
    pipelined.send(calls.recover("w", 4, ()), lambda _: None)
    pipelined.finish()


def test_scripts_that_the_server_forgot_are_loaded_again_with_the_next_connection(pipelined, redis_client):
    answers = []
    pipelined.send(calls.recover("w", 4, ()), answers.append)
    pipelined.finish()
    redis_client.script_flush()
    pipelined.send(calls.recover("w", 4, ()), answers.append)
    with pytest.raises(StoreUnavailable):
        pipelined.finish()
    pipelined.hang_up()
    assert not pipelined.is_waiting
    pipelined.send(calls.recover("w", 4, ()), answers.append)
    pipelined.finish()
    assert len(answers) == 2
