"""The scripts' constants are written into them where they are named, and into nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import broker.ledger
from broker.ledger.scripts import scripts, with_values


def test_a_constant_s_value_stands_where_its_name_was():
    text = "local JOB, MOST = 'rq:job:', 24 * 3600 -- s\nlocal key = JOB .. id\nreturn MOST * n, #JOB\n"
    assert with_values(text) == "\nlocal key = 'rq:job:' .. id\nreturn (24 * 3600) * n, #'rq:job:'\n"


def test_neither_strings_nor_fields_nor_longer_names_are_touched():
    text = "local JOB = 'x'\nreturn 'JOB', row.JOB, JOBS, \"\" .. OTHER_JOB, '\\'JOB' -- what's a JOB\n"
    assert with_values(text) == "\nreturn 'JOB', row.JOB, JOBS, \"\" .. OTHER_JOB, '\\'JOB' \n"


def test_what_is_only_known_when_it_runs_stays():
    text = "local NOTHING = {}\nlocal LATE = now + 10\nreturn LATE, NOTHING\n"
    assert with_values(text) == text


def test_each_of_the_four_consists_of_what_all_share_and_its_own():
    found = dict(scripts())
    assert list(found) == ["publish", "claim", "settle", "recover"]
    for text in found.values():
        assert "'rq:job:' .. " in text
        assert "JOB .. " not in text
        assert "USAGE" not in text


def test_no_name_is_left_without_a_value():
    for text in dict(scripts()).values():
        named = set(re.findall(r"\b[A-Z][A-Z_]+\b", re.sub(r"'(?:[^'\\\n]|\\.)*'", "", text)))
        assert named <= {"ARGV", *re.findall(r"^local ([A-Z_]+) = ", text, re.MULTILINE)}


def test_no_name_has_two_values():
    files = Path(broker.ledger.__file__).parent.glob("*.lua")
    lines = [line for file in files for line in re.findall(r"^local ([A-Z_, ]+) = ", file.read_text(), re.MULTILINE)]
    names = ", ".join(lines).split(", ")
    assert len(names) == len(set(names)) > 20
