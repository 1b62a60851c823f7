"""Names: how the place of a key is written, and which known name was probably meant."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def inside(place: str, key: str) -> str:
    """Return the place of a key in the table at `place`, quoted where TOML would need it."""
    key = key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)
    return f"{place}.{key}" if place else key


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `did you mean "..."?` for the known name that is most like this one, or nothing."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f'did you mean "{by_lower[close[0]]}"?' if close else ""
