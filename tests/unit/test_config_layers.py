"""Layers in config.toml: what is wrong with them is told with its place."""

from __future__ import annotations

import zipfile

import pytest

from broker import config as configuration
from broker.errors import ConfigError
from broker.layer import Layer
from broker.runtime import layers as building


def load(tmp_path, text):
    (tmp_path / "f.py").write_text("def handler(event, context): ...\n")
    (tmp_path / "config.toml").write_text(text)
    return configuration.load(tmp_path / "config.toml", environ={})


def mistakes(tmp_path, text):
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    return {mistake.place: f"{mistake.problem} {mistake.hint}" for mistake in raised.value.mistakes}


def test_layers_are_read_and_named_by_functions(tmp_path):
    config = load(
        tmp_path,
        '[layers.a]\nrequirements = ["x==1"]\npackages = ["y"]\n'
        '[functions.f]\nhandler = "f.py:handler"\nlayers = ["a"]\n',
    )
    assert config.layers["a"].requirements == ["x==1"]
    assert config.functions["f"].layers == ["a"]


def test_every_mistake_is_told_with_its_place(tmp_path):
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as flat:
        flat.writestr("module.py", "")
    (tmp_path / "folder").mkdir()
    told = mistakes(
        tmp_path,
        '[layers.imaging]\nrequirements = ["-r x.txt", "good"]\n'
        '[layers.nothing]\n[layers.both]\nrequirements = ["x"]\npath = "folder"\n'
        '[layers.file]\nrequirements = "none.txt"\n[layers.zip]\npath = "flat.zip"\n[layers.gone]\npath = "no.zip"\n'
        '[functions.f]\nhandler = "f.py:handler"\nlayers = ["imagin", "imaging", "imaging", "file", "zip", "gone"]\n',
    )
    assert "requirements = " in told["layers.imaging.requirements#1"]
    assert "or else a path" in told["layers.nothing"]
    assert "or else a path" in told["layers.both"]
    assert "no file" in told["layers.file.requirements"]
    assert "none of the folders python/, nodejs/, bin/, lib/" in told["layers.zip.path"]
    assert "is not there" in told["layers.gone.path"]
    assert "at most 5" in told["functions.f.layers"]
    assert 'did you mean "imaging"?' in told["functions.f.layers#1"]
    assert "twice" in told["functions.f.layers#3"]


def test_the_hash_is_that_of_all_that_decides_the_content(tmp_path):
    def digest(**fields):
        return building.fingerprint(Layer(name="any", **fields), tmp_path)

    assert digest(requirements=["a"]) != digest(requirements=["b"])
    assert digest(requirements=["a"]) != digest(packages=["a"])
    for line in ("./w.whl", "w @ ./w.whl", "w.whl", f"w @ file://{tmp_path}/w.whl"):
        (tmp_path / "w.whl").write_text("1")
        before = digest(requirements=[line])
        (tmp_path / "w.whl").write_text("2")
        assert digest(requirements=[line]) != before, line
    (tmp_path / "r.txt").write_text("-r more.txt\n")
    (tmp_path / "more.txt").write_text("a\n")
    before = digest(requirements="r.txt")
    (tmp_path / "more.txt").write_text("b\n")
    assert digest(requirements="r.txt") != before
