"""Webhook signatures: was this request signed by one who knows the secret, and when? Pure; the clock is passed in.

Every scheme is an HMAC-SHA256 over the raw body, most together with the time of sending:

| scheme | header | signed text | source of the format |
|---|---|---|---|
| `standard-webhooks` | `webhook-signature` (or Svix's `svix-signature`) | `ID.TIMESTAMP.BODY` | https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md |
| `github` | `x-hub-signature-256` | `BODY` | https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries |
| `stripe` | `stripe-signature` | `TIMESTAMP.BODY` | https://docs.stripe.com/webhooks/signature |
| `slack` | `x-slack-signature` | `v0:TIMESTAMP:BODY` | https://docs.slack.dev/authentication/verifying-requests-from-slack |

Header names are lower-case here throughout.
"""  # noqa: E501 -- the addresses are long

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from broker.errors import SignatureError

Scheme = Literal["standard-webhooks", "github", "stripe", "slack"]

TOLERANCE = 300.0
"""Seconds that a signature's time may lie in the past or the future; all four senders recommend five minutes."""

HEADERS = frozenset(
    {
        "webhook-signature",
        "svix-signature",
        "x-hub-signature",
        "x-hub-signature-256",
        "stripe-signature",
        "x-slack-signature",
    }
)
"""The headers that carry a signature."""


class _Signed(NamedTuple):
    """What a request claims: the text that was signed, the digests given for it, and the time of signing."""

    text: bytes
    digests: list[bytes]
    timestamp: str | None


def key(scheme: Scheme, secret: str) -> bytes:
    """Return the HMAC key that a secret stands for.

    Standard Webhooks writes its keys in base64 after `whsec_`; elsewhere the secret's text is the key, also Stripe's,
    which begins with `whsec_` too. Raises SignatureError when the secret is empty or not base64.
    """
    if scheme != "standard-webhooks":
        decoded = secret.encode()
    else:
        text = secret.removeprefix("whsec_")
        try:
            decoded = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError:
            raise SignatureError("a Standard Webhooks secret is base64, with or without whsec_ before it") from None
    if not decoded:
        raise SignatureError("the secret is empty")
    return decoded


def verify(
    scheme: Scheme,
    keys: Sequence[bytes],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float,
    tolerance: float = TOLERANCE,
) -> None:
    """Return if one of the keys signed this body, at most `tolerance` seconds away from `now` (Unix seconds).

    Several keys let a secret be rotated. Raises SignatureError, which says what is missing or wrong and never tells
    a key or the signature that would have been right.
    """
    signed = _READERS[scheme](headers, body)
    if signed.timestamp is not None:
        if not re.fullmatch(r"[0-9]{1,12}", signed.timestamp):
            raise SignatureError("the signature's timestamp is not a number of seconds")
        age = now - int(signed.timestamp)
        if abs(age) > tolerance:
            raise SignatureError(f"the signature is too {'old' if age > 0 else 'new'}: check the clocks")
    for one in keys:
        right = hmac.digest(one, signed.text, "sha256")
        if any(hmac.compare_digest(right, given) for given in signed.digests):
            return
    raise SignatureError("the signature does not match: is it the same secret, and the body unchanged?")


def delivery(scheme: Scheme, headers: Mapping[str, str], payload: Any) -> str | None:
    """Return the sender's own id of this delivery, the same when it is sent again; None when it gave none.

    `payload` is the body when it was JSON: Stripe and Slack write the id there.
    """
    if scheme == "standard-webhooks":
        return headers.get("webhook-id") or headers.get("svix-id")
    if scheme == "github":
        return headers.get("x-github-delivery")
    found = payload.get("id" if scheme == "stripe" else "event_id") if isinstance(payload, dict) else None
    return found if isinstance(found, str) else None


def _standard(headers: Mapping[str, str], body: bytes) -> _Signed:
    prefix = "svix" if "svix-id" in headers and "webhook-id" not in headers else "webhook"
    ident, timestamp, given = (_need(headers, f"{prefix}-{name}") for name in ("id", "timestamp", "signature"))
    digests = [_base64(text[3:]) for text in given.split(" ") if text.startswith("v1,")]
    return _Signed(f"{ident}.{timestamp}.".encode() + body, digests, timestamp)


def _github(headers: Mapping[str, str], body: bytes) -> _Signed:
    given = _need(headers, "x-hub-signature-256")
    return _Signed(body, [_hex(given[7:])] if given.startswith("sha256=") else [], None)


def _stripe(headers: Mapping[str, str], body: bytes) -> _Signed:
    parts = [part.strip().partition("=") for part in _need(headers, "stripe-signature").split(",")]
    timestamp = next((value for name, _, value in parts if name == "t"), None)
    if timestamp is None:
        raise SignatureError("the header stripe-signature has no t=TIMESTAMP")
    digests = [_hex(value) for name, _, value in parts if name == "v1"]
    return _Signed(f"{timestamp}.".encode() + body, digests, timestamp)


def _slack(headers: Mapping[str, str], body: bytes) -> _Signed:
    timestamp, given = _need(headers, "x-slack-request-timestamp"), _need(headers, "x-slack-signature")
    return _Signed(f"v0:{timestamp}:".encode() + body, [_hex(given[3:])] if given.startswith("v0=") else [], timestamp)


_READERS: dict[Scheme, Callable[[Mapping[str, str], bytes], _Signed]] = {
    "standard-webhooks": _standard,
    "github": _github,
    "stripe": _stripe,
    "slack": _slack,
}


def _need(headers: Mapping[str, str], name: str) -> str:
    if not (value := headers.get(name, "")):
        raise SignatureError(f"the header {name} is missing")
    return value


def _hex(text: str) -> bytes:
    """Return the digest; what is no hexadecimal number becomes one that matches nothing."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
