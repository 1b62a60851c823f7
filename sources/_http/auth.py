"""Who may send to an HTTP source: bearer tokens, webhook signatures, and for the open ones no strangers' web pages."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec

from broker.errors import SignatureError
from broker.quantity import Duration
from sources._http.signatures import TOLERANCE, Scheme, key, verify


class Auth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `auth` table of an HTTP source: either `bearer`, or `signature` and `secret`.

    A list holds several tokens or secrets of which any one will do, so that they can be changed without a gap.
    """

    bearer: str | list[str] | None = None
    """The token that requests carry as `Authorization: Bearer TOKEN`."""
    signature: Scheme | None = None
    """How requests are signed; see sources/_http/signatures.py."""
    secret: str | list[str] | None = None
    """What they are signed with."""
    tolerance: Duration = Duration(TOLERANCE)
    """How old a signature may be; GitHub's bear no time."""

    def __repr__(self) -> str:
        """Return it without the secrets, as it may end in a log."""
        return f"Auth({self})"

    def __str__(self) -> str:
        """Return `bearer token` or `github signature`."""
        return f"{self.signature} signature" if self.signature else "bearer token"

    def mistakes(self) -> list[str]:
        """Return what is wrong with the options, one sentence each."""
        if (self.bearer is None) == (self.signature is None):
            return ["auth: expected either bearer, or signature and secret"]
        if self.signature is None:
            found = ["auth.secret: only a signature needs one"] if self.secret is not None else []
            if not self.tokens or not all(self.tokens):
                found.append("auth.bearer: an empty token would let everyone in")
            return found
        if self.secret is None:
            return ["auth.secret is missing: what the sender signs with"]
        try:
            return [] if self.keys() else ["auth.secret: expected at least one secret"]
        except SignatureError as error:
            return [f"auth.secret: {error}"]

    @property
    def tokens(self) -> list[str]:
        """The bearer tokens."""
        return _several(self.bearer)

    def keys(self) -> list[bytes]:
        """Return the keys of the secrets. Raises SignatureError when one is none."""
        return [key(self.signature, secret) for secret in _several(self.secret)] if self.signature else []


class Guard:
    """Judges requests by an Auth; made once, as it holds the keys ready."""

    def __init__(self, auth: Auth | None) -> None:
        """Take the options; None lets everyone in."""
        self._auth = auth
        self._tokens = [token.encode() for token in auth.tokens] if auth else []
        self._keys = auth.keys() if auth else []

    def refuses_head(self, headers: Mapping[str, str]) -> str:
        """Return why a request is refused by its headers, before anything of its body is read; or nothing."""
        if not self._tokens:
            return ""
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return "the header Authorization: Bearer TOKEN is missing"
        token = given.strip().encode("latin-1")  # as the server decoded it
        return "" if any(hmac.compare_digest(token, one) for one in self._tokens) else "the token is not the right one"

    def refuses_body(self, headers: Mapping[str, str], body: bytes, *, now: float) -> str:
        """Return why a request is refused by its signature, or nothing. `now` is in Unix seconds."""
        if self._auth is None or self._auth.signature is None:
            return ""
        try:
            verify(self._auth.signature, self._keys, headers, body, now=now, tolerance=self._auth.tolerance)
        except SignatureError as error:
            return str(error)
        return ""


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def from_elsewhere(headers: Mapping[str, str]) -> str:
    """Return why a request without proof of its sender looks like one that a web page made, or nothing.

    Any page that a person on this machine has open can make their browser send requests to 127.0.0.1, and can have
    its own name point there. Browsers tell on such pages: in Origin and Sec-Fetch-Site, and in Host.
    """
    host = headers.get("host", "")
    if host and not _is_local(host):
        return f"the request is for {host!r}: behind another name this needs auth, or insecure = true"
    origin = headers.get("origin")
    if headers.get("sec-fetch-site") == "cross-site" or (origin is not None and origin.partition("://")[2] != host):
        return "the request comes from a web page elsewhere: that needs auth, or insecure = true"
    return ""


@lru_cache(maxsize=64)  # every request asks, nearly always about the same one
def _is_local(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:  # no valid Host at all
        return False


def _several(given: str | list[str] | None) -> list[str]:
    return [] if given is None else [given] if isinstance(given, str) else given
