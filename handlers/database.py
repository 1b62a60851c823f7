"""Database: the one SQLite file that these functions share, and the tables in it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

PATH = Path(os.environ.get("DATABASE", "data/weather.db"))
"""Relative to the project, where every function runs."""

PATIENCE = 10.0
"""Seconds to wait for another function that writes."""

_TABLES = """
CREATE TABLE IF NOT EXISTS weather (
    city TEXT NOT NULL COLLATE NOCASE,
    day TEXT NOT NULL,
    temperature REAL NOT NULL,
    rain REAL,
    wind REAL,
    PRIMARY KEY (city, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS measurements (
    key TEXT PRIMARY KEY,
    count INTEGER NOT NULL,
    sum REAL NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counted (
    event TEXT PRIMARY KEY,
    day TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS counted_day ON counted (day);
"""


@contextmanager
def reading() -> Iterator[sqlite3.Connection]:
    """Give a connection; rows can be read by the names of their columns. Raises sqlite3.Error."""
    PATH.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(PATH, timeout=PATIENCE, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.executescript(_TABLES)
        yield connection


@contextmanager
def writing() -> Iterator[sqlite3.Connection]:
    """Give a connection in a transaction: all of what is written, or, after an exception, nothing."""
    with reading() as connection:
        # At once the right to write: a transaction that begins with reading could be refused it in the middle.
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            yield connection
