"""Layer: dependencies that functions share, built once for what they consist of."""

from __future__ import annotations

import msgspec

MOST = 5
"""How many layers a function may have; AWS Lambda's limit."""


class Layer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[layers.NAME]` table: Python or npm packages to be installed, or a folder or zip in AWS Lambda's layout."""

    name: str
    requirements: list[str] | str = []
    """Python packages as `uv pip install` takes them, or the file that lists them."""
    packages: list[str] = []
    """Node.js packages as `npm install` takes them."""
    path: str | None = None
    """A folder or zip with `python/`, `nodejs/node_modules/`, `bin/` or `lib/` in it."""
