"""Webhook signatures: published vectors, the reference library, and what a refusal says."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from broker.errors import SignatureError
from sources._http import signatures

VECTORS = [
    json.loads(line) for line in (Path(__file__).parents[1] / "data/webhooks/signatures.jsonl").read_text().splitlines()
]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def scheme_of(vector):
    return "standard-webhooks" if vector["scheme"] == "standard" else vector["scheme"]


def lower(headers):
    return {name.lower(): value for name, value in headers.items()}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_a_published_request_is_judged_as_its_sender_says(vector):
    scheme = scheme_of(vector)
    keys = [signatures.key(scheme, vector["secret"])]

    def verify():
        signatures.verify(scheme, keys, lower(vector["headers"]), vector["body"].encode(), now=vector["now"])

    if vector["accept"]:
        verify()
    else:
        with pytest.raises(SignatureError) as raised:
            verify()
        assert vector["secret"] not in str(raised.value)


def test_all_37_vectors_are_there():
    assert len(VECTORS) == 37
    assert {scheme_of(vector) for vector in VECTORS} == {"standard-webhooks", "github", "stripe", "slack"}


@pytest.mark.parametrize("vector", [one for one in VECTORS if one["accept"]], ids=lambda vector: vector["id"])
def test_an_old_secret_and_a_new_one_are_both_good_while_rotating(vector):
    scheme = scheme_of(vector)
    other = "whsec_" + base64.b64encode(b"x" * 24).decode()
    keys = [signatures.key(scheme, secret) for secret in (other, vector["secret"])]
    signatures.verify(scheme, keys, lower(vector["headers"]), vector["body"].encode(), now=vector["now"])


@given(
    body=st.text(),
    ident=st.from_regex(r"msg_[A-Za-z0-9]{1,27}", fullmatch=True),
    prefix=st.sampled_from(["webhook", "svix"]),
)
def test_what_the_reference_library_signs_is_accepted(body, ident, prefix):
    moment = datetime(2026, 11, 23, 7, 51, tzinfo=UTC)
    headers = {
        f"{prefix}-id": ident,
        f"{prefix}-timestamp": str(int(moment.timestamp())),
        f"{prefix}-signature": Webhook(SECRET).sign(ident, moment, body),
    }
    keys = [signatures.key("standard-webhooks", SECRET)]
    signatures.verify("standard-webhooks", keys, headers, body.encode(), now=moment.timestamp())
    with pytest.raises(SignatureError, match="too old"):
        signatures.verify("standard-webhooks", keys, headers, body.encode(), now=moment.timestamp() + 301)
    with pytest.raises(SignatureError, match="does not match"):
        signatures.verify("standard-webhooks", keys, headers, body.encode() + b"x", now=moment.timestamp())


@given(
    scheme=st.sampled_from(["standard-webhooks", "github", "stripe", "slack"]),
    values=st.lists(st.text(st.characters(max_codepoint=255)), min_size=9, max_size=9),
)
def test_no_garbage_in_the_headers_is_accepted_or_raises_anything_else(scheme, values):
    names = sorted(signatures.HEADERS | {"webhook-id", "webhook-timestamp", "x-slack-request-timestamp"})
    headers = dict(zip(names, values, strict=True))
    with pytest.raises(SignatureError):
        signatures.verify(scheme, [b"k"], headers, b"body", now=0)


@pytest.mark.parametrize("secret", ["", "whsec_", "not base64!"])
def test_a_secret_that_is_none_is_refused(secret):
    with pytest.raises(SignatureError):
        signatures.key("standard-webhooks", secret)


def test_a_missing_header_is_named():
    with pytest.raises(SignatureError, match="x-hub-signature-256 is missing"):
        signatures.verify("github", [b"k"], {}, b"", now=0)


@pytest.mark.parametrize(
    ("scheme", "headers", "payload", "expected"),
    [
        ("standard-webhooks", {"webhook-id": "msg_1"}, None, "msg_1"),
        ("standard-webhooks", {"svix-id": "msg_2"}, None, "msg_2"),
        ("github", {"x-github-delivery": "72d3162e"}, {"id": "x"}, "72d3162e"),
        ("stripe", {}, {"id": "evt_1"}, "evt_1"),
        ("slack", {}, {"event_id": "Ev1"}, "Ev1"),
        ("slack", {}, ["event_id"], None),
        ("stripe", {}, {"id": 5}, None),
        ("github", {}, None, None),
    ],
)
def test_the_senders_own_id_of_a_delivery_is_found(scheme, headers, payload, expected):
    assert signatures.delivery(scheme, headers, payload) == expected
