"""Price: what AWS Lambda would have charged for what was used; pure, but for reading the file with the prices."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from broker.errors import ConfigError, Mistake

Amount = Annotated[float, msgspec.Meta(ge=0)]


class Free(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What costs nothing: the first of each calendar month, over all functions."""

    requests: Amount = 0
    gb_seconds: Amount = 0


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A list price. Its tiers beyond some billion GB-seconds a month are not told apart.

    https://aws.amazon.com/lambda/pricing/
    """

    million_requests: Amount
    gb_second: Amount
    currency: str = "USD"
    free: Free = Free()

    @classmethod
    def read(cls, path: Path) -> Price:
        """Return the prices that a file of TOML tells. Raises ConfigError, which says what is wrong with it."""
        try:
            return msgspec.convert(tomllib.loads(path.read_text()), cls)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
            raise ConfigError([Mistake(file=str(path), place="", problem=str(error))]) from error

    def cost(self, requests: float, gb_seconds: float) -> float:
        """Return what so much costs where nothing is free."""
        return requests / 1e6 * self.million_requests + gb_seconds * self.gb_second

    def rebate(self, months: Iterable[tuple[float, float]]) -> float:
        """Return what is free of that, given requests and GB-seconds of each calendar month."""
        return sum(self.cost(min(used, self.free.requests), min(gb, self.free.gb_seconds)) for used, gb in months)
