"""Record: what is known of one deployed function: its versions, and which of them an invocation runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any

import msgspec

LIVE = "live"
"""The alias that triggers, destinations and `broker invoke NAME` mean."""

KEPT = 10
"""How many versions are kept, besides those that an alias names."""

LARGEST = 50 << 20
"""Bytes of the zip of a version; AWS Lambda's limit."""

LARGEST_UNPACKED = 250 << 20
"""Bytes of what such a zip holds; AWS Lambda's limit."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One deploy; nothing of it ever changes."""

    number: int
    code: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """The SHA-256 of its zip. It names folders, so nothing else may come from Redis."""
    size: int
    """Bytes of the zip."""
    options: dict[str, Any]
    """What a `[functions.NAME]` table would say: handler, runtime, and for a function of no table its limits."""
    created: str
    """ISO 8601, UTC."""
    origin: str = ""
    """The name of the file or folder that it was made of."""


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """A name for a version, or for several of which each gets a share."""

    version: int
    """0: the code in the folder of config.toml, for a function that has a table there."""
    weights: dict[int, float] = {}
    """Other versions -> their shares of all invocations, 0 to 1; the rest is `version`'s."""

    def pick(self, invocation: str) -> int:
        """Return the version that an invocation runs: always the same one, as long as the alias stays as it is.

        A version whose weight grows keeps the invocations that it had.
        """
        if not self.weights:
            return self.version
        point = int.from_bytes(blake2b(invocation.encode(), digest_size=8).digest()) / 2**64
        for number, share in sorted(self.weights.items()):
            point -= share
            if point < 0:
                return number
        return self.version

    def versions(self) -> list[int]:
        """Return the versions that get invocations, the main one first."""
        return [self.version, *(number for number, share in self.weights.items() if share > 0)]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One function that was deployed. Without versions it is a function no more; its numbers are not used again."""

    name: str
    last: int = 0
    """The number of the last version."""
    versions: dict[int, Version] = {}
    aliases: dict[str, Alias] = {}
    triggers: list[dict[str, Any]] = []
    """`[[triggers]]` tables without their function."""

    @property
    def live(self) -> Alias:
        """What triggers run."""
        return self.aliases.get(LIVE, Alias(version=0))

    def resolve(self, qualifier: str, invocation: str) -> int | None:
        """Return the version that an invocation of `NAME:QUALIFIER` runs; None when there is none of that name."""
        if qualifier.isdecimal():
            return int(qualifier) if int(qualifier) in self.versions else None
        alias = self.aliases.get(qualifier or LIVE)
        return alias.pick(invocation) if alias else None

    def with_version(self, version: Version, share: float, triggers: list[dict[str, Any]] | None) -> Record:
        """Return it with a version more, which gets a share of what is live: with 1 all of it."""
        live, before = Alias(version=version.number), self.aliases.get(LIVE)
        if share < 1 and before is not None:
            live = Alias(version=before.version, weights={version.number: share})
        return msgspec.structs.replace(
            self,
            last=version.number,
            versions={**self.versions, version.number: version},
            aliases={**self.aliases, LIVE: live},
            triggers=self.triggers if triggers is None else triggers,
        ).pruned(KEPT)

    def with_alias(self, name: str, alias: Alias | None) -> Record:
        """Return it with an alias set, or removed."""
        aliases: Mapping[str, Alias | None] = {**self.aliases, name: alias}
        return msgspec.structs.replace(self, aliases={key: each for key, each in aliases.items() if each is not None})

    def pruned(self, keep: int) -> Record:
        """Return it with the newest versions alone, and those that an alias names."""
        named = {number for alias in self.aliases.values() for number in alias.versions()}
        newest = sorted(self.versions)[-keep:] if keep else []
        versions = {n: version for n, version in self.versions.items() if n in named or n in newest}
        return msgspec.structs.replace(self, versions=versions)

    def before_live(self) -> int | None:
        """Return the version before the one that is live, as far as it is kept; None when there is none."""
        older = [number for number in self.versions if number < self.live.version]
        return max(older, default=None)
