"""Share: how versions and their shares are written on a command line: `3`, `latest`, `10%`, `4=10%`."""

from __future__ import annotations

from typing import Any

import click

from broker.function import LATEST


class ShareType(click.ParamType[float]):
    """A share of all invocations: `10%`, or `0.1`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it as a number from 0 to 1."""
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1
        if not 0 <= share <= 1:
            self.fail(f"expected a share such as 10% or 0.1, got {text!r}", param, ctx)
        return share


class NumberType(click.ParamType[int]):
    """A version: its number, or `latest` for the code in the folder of config.toml, which is 0."""

    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return its number."""
        text = str(value)
        if text.lower() in {"latest", LATEST.lower()}:
            return 0
        if not text.isdecimal():
            self.fail(f"expected a version's number, or latest, got {text!r}", param, ctx)
        return int(text)


class WeightType(click.ParamType[tuple[int, float]]):
    """A version and its share: `4=10%`."""

    name = "weight"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, float]:
        """Return number and share."""
        number, equals, share = str(value).partition("=")
        if not equals:
            self.fail(f"expected VERSION=SHARE such as 4=10%, got {value!r}", param, ctx)
        return NUMBER.convert(number, param, ctx), SHARE.convert(share, param, ctx)


SHARE, NUMBER, WEIGHT = ShareType(), NumberType(), WeightType()
