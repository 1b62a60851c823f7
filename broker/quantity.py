"""Durations, sizes and rates as people write them: `30s`, `1h30m`, `256MB`, `10/s`."""

from __future__ import annotations

import re

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?) */ *([smhd])")
_FASTEST = 1_000_000  # a second; a microsecond is what Redis' clock can tell apart
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Duration(float):
    """A length of time in seconds; written `250ms`, `30s`, `5m`, `1h30m`, `2d`, `1w`, or a plain number of seconds."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str | float) -> Duration:
        """Read a duration. Raises ValueError when it is none."""
        if isinstance(text, int | float) and not isinstance(text, bool):
            if text < 0:
                raise ValueError(f"a duration cannot be negative: {text}")
            return cls(text)
        if not isinstance(text, str) or not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
            raise ValueError(f'expected a duration such as "30s" or "1h30m", got {text!r}')
        return cls(sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text)))

    def __str__(self) -> str:
        """Return it as one would write it."""
        if self and self < 1:
            return f"{self * 1000:g}ms"
        parts, rest = [], float(self)
        for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
            if rest >= length:
                parts.append(f"{int(rest // length)}{unit}")
                rest %= length
        if rest or not parts:
            parts.append(f"{rest:g}s")
        return "".join(parts)


class Size(int):
    """A number of bytes; written `512KB`, `256MB`, `1GB` (units of 1024, as AWS Lambda counts), or a plain number."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str | int) -> Size:
        """Read a size. Raises ValueError when it is none."""
        if isinstance(text, int) and not isinstance(text, bool):
            if text < 0:
                raise ValueError(f"a size cannot be negative: {text}")
            return cls(text)
        if not isinstance(text, str) or not (match := _SIZE.fullmatch(text.strip())):
            raise ValueError(f'expected a size such as "256MB", got {text!r}')
        return cls(float(match[1]) * _BYTES[match[2]])

    def __str__(self) -> str:
        """Return it as one would write it."""
        for unit, length in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
            if self >= length:
                return f"{self / length:g}{unit}"
        return f"{int(self)}B"


class Rate(float):
    """How often something may happen, in times a second; written `10/s`, `100/m`, `5/h`, `1/d`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Rate:
        """Read a rate. Raises ValueError when it is none."""
        if not isinstance(text, str) or not (match := _RATE.fullmatch(text.strip())):
            raise ValueError(f'expected a rate such as "10/s" or "100/m", got {text!r}')
        rate = cls(float(match[1]) / _SECONDS[match[2]])
        if not 0 < rate <= _FASTEST:
            raise ValueError(f"expected a rate of more than 0 and at most {_FASTEST}/s, got {text!r}")
        return rate

    @property
    def interval(self) -> float:
        """The seconds from one time to the next."""
        return 1 / self

    def __str__(self) -> str:
        """Return it as one would write it."""
        counts = [(self * _SECONDS[unit], unit) for unit in "smhd"]
        whole = (one for one in counts if one[0] > 0.5 and abs(one[0] - round(one[0])) < 1e-6 * one[0])
        count, unit = next(whole, counts[-1])
        return f"{count:.9g}/{unit}"
