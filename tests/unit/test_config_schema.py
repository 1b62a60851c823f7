"""The JSON Schema of config.toml agrees with what `load` accepts."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest
from msgspec.structs import fields

from broker import config as configuration
from broker.config import schema
from broker.function import UNLISTED, Function
from broker.quantity import Duration, Size
from broker.source import find, shipped

ROOT = Path(__file__).parent.parent.parent
FUNCTION = '[functions.f]\nhandler = "handlers/thumbnail.py:handler"\n'


@pytest.fixture(scope="module")
def validator():
    return jsonschema.Draft202012Validator(schema())


def test_it_is_a_json_schema(validator):
    validator.check_schema(schema())
    assert json.loads(json.dumps(schema())) == schema()


@pytest.mark.skipif(not (ROOT / "config.toml").is_file(), reason="an installed package has no config.toml beside it")
def test_the_configuration_that_ships_is_valid(validator):
    validator.validate(tomllib.loads((ROOT / "config.toml").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[broker]\nredis = "redis://:${PASSWORD}@h"\nworkers = "${N}"\ngrace = 1.5\nfsync = "always"',
        FUNCTION + 'timeout = "1h30m"\nmemory = "256 MB"\nvariables = { A = "b" }',
        FUNCTION + 'retry = { attempts = 1, backoff = ["1s", 2] }\nbatch = { window = "250ms" }',
        FUNCTION + 'retry = { backoff = "fixed" }',
        '[sources.x]\nkind = "./my_source.py:Mine"\nanything = 5',
        '[[triggers]]\nsource = "a"\nfunction = "b"\npattern = { data = { size = [{ numeric = [">", 0] }] } }',
    ],
)
def test_what_is_right_is_valid(validator, text):
    validator.validate(tomllib.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        "[brokr]",
        "[broker]\nworkers = 0",
        '[broker]\nfsync = "never"',
        "[functions.f]",
        '[functions."a.b"]\nhandler = "x.y"',
        FUNCTION + 'name = "f"',
        FUNCTION + "timout = 5",
        FUNCTION + 'timeout = "soon"',
        FUNCTION + "timeout = -1",
        FUNCTION + 'memory = "big"',
        FUNCTION + "retry = { attempts = 0 }",
        FUNCTION + "batch = { size = 10001 }",
        '[sources.x]\npath = "inbox"',
        '[[triggers]]\nsource = "a"',
        "[triggers]",
    ],
)
def test_what_is_wrong_is_invalid(validator, text):
    assert not validator.is_valid(tomllib.loads(text))


@pytest.mark.parametrize("kind", sorted(shipped()))
def test_the_options_of_each_kind_are_known(validator, kind):
    options = fields(find(kind, ROOT))
    known = next(
        each["then"]["$ref"] for each in _source()["allOf"] if each["if"]["properties"]["kind"]["const"] == kind
    )
    properties = schema()["$defs"][known.rpartition("/")[2]]["properties"]
    assert set(properties) == {"kind", *(option.encode_name for option in options)}
    assert not validator.is_valid({"sources": {"x": {"kind": kind, "no-such-option": 1}}})


def _source():
    return schema()["properties"]["sources"]["additionalProperties"]


@pytest.mark.parametrize(
    "text", ["30s", "1h30m", "0.5s", "250ms", "2d", "1w", "", "s", "5", "5 s", "1h 30m", "-1s", "1e3s"]
)
def test_a_duration_is_valid_when_it_can_be_read(validator, text):
    assert validator.is_valid({"broker": {"grace": text}}) == _reads(Duration, text)


@pytest.mark.parametrize("text", ["1KB", "256MB", "1.5 GiB", "5B", "", "5", "MB", "5TB", "-1KB", "5mb"])
def test_a_size_is_valid_when_it_can_be_read(validator, text):
    function = {"handler": "a.b", "memory": text}
    assert validator.is_valid({"functions": {"f": function}}) == _reads(Size, text)


def _reads(kind, text):
    try:
        kind.parse(text)
    except ValueError:
        return False
    return True


def test_fields_are_described_by_their_docstrings():
    described = schema()["$defs"]["Function"]["properties"]
    assert described["concurrency"]["description"].startswith("How many run at once")
    assert set(described) == {field.name for field in fields(Function)} - {"name", *UNLISTED}


def test_the_schema_that_is_shipped_for_editors_is_the_one_of_this_version():
    shipped = Path(configuration.__file__).with_name("config.schema.json")
    assert json.loads(shipped.read_text()) == schema(), "broker check --schema > broker/config/config.schema.json"
