"""The file source's globs: which names count."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources._file.names import UNFINISHED, Names, complaint


def names(include=("*",), exclude=(), *, hidden=False):
    return Names(include=include, exclude=exclude, hidden=hidden)


@pytest.mark.parametrize(
    ("pattern", "path", "counts"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "orders/2026/a.csv", True),
        ("*.csv", "a.csv.gz", False),
        ("*.csv", "A.CSV", False),
        ("[a-c]?.csv", "b7.csv", True),
        ("[!a-c]?.csv", "b7.csv", False),
        ("a b\n.csv", "a b\n.csv", True),
        ("orders/*.csv", "orders/a.csv", True),
        ("orders/*.csv", "a.csv", False),
        ("orders/*.csv", "orders/2026/a.csv", False),
        ("orders/*/*.csv", "orders/2026/a.csv", True),
        ("orders/**/*.csv", "orders/a.csv", True),
        ("orders/**/*.csv", "orders/2026/11/a.csv", True),
        ("**/a.csv", "a.csv", True),
        ("**/a.csv", "x/y/a.csv", True),
        ("orders/**", "orders/2026/a.csv", True),
        ("**/x/**/y", "x/x/y/y", True),
    ],
)
def test_a_pattern_matches_the_name_or_with_a_slash_the_path(pattern, path, counts):
    assert names([pattern]).counts(path) is counts


def test_a_file_counts_when_one_pattern_includes_it_and_none_excludes_it():
    some = names(["*.csv", "*.txt"], ["draft*", "old/**"])
    assert [path for path in ("a.csv", "a.txt", "a.jpg", "draft.csv", "old/a.csv") if some.counts(path)] == [
        "a.csv",
        "a.txt",
    ]


def test_an_excluded_folder_is_not_entered():
    assert not names(exclude=["node_modules"]).enters("a/node_modules")
    assert not names(exclude=["old/**"]).enters("old")
    assert names(exclude=["*.csv"]).enters("a")


def test_hidden_names_count_only_when_asked_for():
    assert not names().counts(".env")
    assert not names().enters("a/.git")
    assert names(hidden=True).counts(".env")
    assert names().counts("a.b/c.d")


DRAFTS = """
film.mkv.part f.crdownload report.csv.tmp notes.txt~ ~$letter.docx #notes# 4913
.notes.txt.swp .#notes .~lock.table.ods# .report.csv.Ab3xY9 .nfs0000001 .fuse_hidden0001
"""


@pytest.mark.parametrize("name", DRAFTS.split())
def test_what_programs_have_not_finished_does_not_count(name):
    assert not names(exclude=UNFINISHED, hidden=True).counts(name)


def test_usual_names_are_not_taken_for_unfinished_ones():
    usual = names(exclude=UNFINISHED, hidden=True)
    for name in ("report.csv", "part.txt", "tmp", "download.zip", ".env", ".gitignore", "a#b", "14913"):
        assert usual.counts(name)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("", "empty"),
        ("/tmp/*.csv", "slash"),
        ("a//b", "nothing between"),
        ("a/", "nothing between"),
        ("../*.csv", '".."'),
        ("a**", "stand alone"),
        ("**", "recursive"),
        ("*.{jpg,png}", "one pattern for each"),
        ("[ab", "without its"),
    ],
)
def test_a_pattern_that_cannot_match_is_complained_about(pattern, says):
    assert says in complaint(pattern)


@pytest.mark.parametrize("pattern", ["*", "*.csv", "a/**/b", "[]]", "[!]a]x", "[[]", "{a}", *UNFINISHED])
def test_good_patterns_pass(pattern):
    assert complaint(pattern) == ""


PART = st.text(alphabet="ab.", min_size=1, max_size=3)
PATTERN_PART = st.sampled_from(["**", "*", "a*", "?", "[ab]", "a", "b.a", "**"])


@given(pattern=st.lists(PATTERN_PART, min_size=2, max_size=5), parts=st.lists(PART, min_size=1, max_size=5))
def test_paths_match_as_by_the_definition(pattern, parts):
    def defined(pattern, parts):
        if not pattern:
            return not parts
        if pattern[0] == "**":
            return defined(pattern[1:], parts) or bool(parts and defined(pattern, parts[1:]))
        return bool(parts) and fnmatchcase(parts[0], pattern[0]) and defined(pattern[1:], parts[1:])

    assert names(["/".join(pattern)], hidden=True).counts("/".join(parts)) == defined(pattern, parts)


def test_many_stars_cost_no_more_than_linear_time():
    assert not names(["/".join(["**", "a"] * 30 + ["b"])]).counts("/".join(["a"] * 200))
