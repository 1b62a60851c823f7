"""Archives: equal files make equal bytes; what is unpacked stays in its folder."""

from __future__ import annotations

import os
import zipfile

import pytest

from broker import archive
from broker.errors import BadArchive


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    (folder / "package").mkdir(parents=True)
    (folder / "package/__init__.py").write_text("x = 1\n")
    (folder / "main.py").write_text("import package\n")
    run = folder / "run.sh"
    run.write_text("#!/bin/sh\n")
    run.chmod(0o755)
    (folder / "link.py").symlink_to("package/__init__.py")
    return folder


def packed(folder, target):
    archive.pack(folder, archive.walk(folder), target)
    return target


def test_equal_files_make_equal_bytes_whenever_they_were_written(tree, tmp_path):
    first = packed(tree, tmp_path / "1.zip").read_bytes()
    for path in archive.walk(tree):
        if not path.is_symlink():
            os.utime(path, (1, 1))
    assert packed(tree, tmp_path / "2.zip").read_bytes() == first


def test_contents_links_and_the_right_to_execute_come_back(tree, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    archive.unpack(packed(tree, tmp_path / "1.zip"), out, most=1 << 20)
    assert archive.hash_tree(out) == archive.hash_tree(tree)
    assert os.access(out / "run.sh", os.X_OK)
    assert not os.access(out / "main.py", os.X_OK)
    assert (out / "link.py").is_symlink()
    assert (out / "link.py").read_text() == "x = 1\n"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x"])
def test_a_path_that_leads_out_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        bad.writestr(name, "x")
    (tmp_path / "out").mkdir()
    with pytest.raises(BadArchive, match="leads out"):
        archive.unpack(tmp_path / "bad.zip", tmp_path / "out", most=100)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../x", "package/../../x"])
def test_a_link_that_leads_out_is_neither_packed_nor_unpacked(tree, tmp_path, target):
    (tree / "bad").symlink_to(target)
    with pytest.raises(BadArchive, match="outside"):
        packed(tree, tmp_path / "1.zip")
    info = zipfile.ZipInfo("a/b")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        bad.writestr(info, target)
    (tmp_path / "out").mkdir()
    if target != "package/../../x":
        with pytest.raises(BadArchive, match="outside"):
            archive.unpack(tmp_path / "bad.zip", tmp_path / "out", most=100)


def test_nothing_is_written_through_a_link(tmp_path):
    info = zipfile.ZipInfo("a")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        bad.writestr(info, "b")
        bad.writestr("a/x", "y")
    (tmp_path / "out").mkdir()
    with pytest.raises(BadArchive, match="behind a link"):
        archive.unpack(tmp_path / "bad.zip", tmp_path / "out", most=100)


def test_a_zip_that_would_fill_the_disk_is_refused(tree, tmp_path):
    (tree / "zeros").write_bytes(b"\0" * (2 << 20))
    (tmp_path / "out").mkdir()
    with pytest.raises(BadArchive, match="more than 1 MB"):
        archive.unpack(packed(tree, tmp_path / "1.zip"), tmp_path / "out", most=1 << 20)


def test_a_damaged_zip_is_refused(tree, tmp_path):
    whole = packed(tree, tmp_path / "1.zip").read_bytes()
    for bad in (whole[:-30], b"no zip at all", b""):
        (tmp_path / "bad.zip").write_bytes(bad)
        out = tmp_path / f"out{len(bad)}"
        out.mkdir()
        with pytest.raises(BadArchive, match="damaged"):
            archive.unpack(tmp_path / "bad.zip", out, most=1 << 20)


def a_link(bad, name, target):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    bad.writestr(info, target)


def test_a_link_that_leads_out_by_way_of_another_is_neither_packed_nor_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        a_link(bad, "a/b/c/up", "../../..")
        a_link(bad, "out", "a/b/c/up/../../../etc/passwd")  # counted by its words it stays inside
    (tmp_path / "out").mkdir()
    with pytest.raises(BadArchive, match="outside"):
        archive.unpack(tmp_path / "bad.zip", tmp_path / "out", most=1000)
    with pytest.raises(BadArchive, match="outside"):
        packed(tmp_path / "out", tmp_path / "1.zip")


def test_what_cannot_be_inflated_is_damaged(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as bad:
        bad.writestr("x", "hello" * 100)
    whole = bytearray((tmp_path / "bad.zip").read_bytes())
    whole[31:33] = b"\xff\xff"  # the header of the file has 30 bytes and its name; now a block of no known type
    (tmp_path / "bad.zip").write_bytes(whole)
    (tmp_path / "out").mkdir()
    with pytest.raises(BadArchive, match="damaged"):
        archive.unpack(tmp_path / "bad.zip", tmp_path / "out", most=1000)


def test_pipes_and_sockets_are_passed_over(tree, tmp_path):
    before = archive.hash_tree(tree)
    os.mkfifo(tree / "pipe")
    assert archive.hash_tree(tree) == before
    assert packed(tree, tmp_path / "1.zip").is_file()
