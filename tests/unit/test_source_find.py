"""How a kind of source is found."""

from __future__ import annotations

import msgspec
import pytest

from broker.config.table import quantity
from broker.errors import SourceError
from broker.quantity import Duration
from broker.source import find
from sources.file import File

OWN = """
from __future__ import annotations
from broker.quantity import Duration
from broker.source import Source

class Imap(Source, frozen=True, kw_only=True):
    every: Duration = Duration({seconds})
"""


def test_a_shipped_kind_is_a_file_of_sources(tmp_path):
    assert find("file", tmp_path) is File


def test_a_kind_of_ones_own_has_its_annotations_read(tmp_path):
    (tmp_path / "mine.py").write_text(OWN.format(seconds=1))
    made = msgspec.convert({"every": "3s"}, find("./mine.py:Imap", tmp_path), dec_hook=quantity)
    assert made.every == Duration(3)


def test_two_files_of_one_name_are_two_kinds(tmp_path):
    for folder, seconds in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(OWN.format(seconds=seconds))
    assert [find(f"./{folder}/mine.py:Imap", tmp_path)().every for folder in ("a", "b")] == [1, 2]


def test_parts_of_shipped_sources_are_no_kinds(tmp_path):
    with pytest.raises(SourceError, match="expected") as raised:
        find("nothing", tmp_path)
    assert "file" in str(raised.value)
    assert "_file" not in str(raised.value)
