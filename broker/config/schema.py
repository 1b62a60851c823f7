"""Schema: the JSON Schema of config.toml, by which editors complete and check it.

It is made from the structs that the file is read into; the descriptions are their docstrings.
Format: https://json-schema.org/draft/2020-12
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec.structs import fields

from broker.config.settings import Settings
from broker.function import UNLISTED, Function
from broker.layer import Layer
from broker.quantity import Duration, Rate, Size
from broker.source import find, shipped
from broker.trigger import Trigger

Schema = dict[str, Any]

_NAMES = {"pattern": "^[A-Za-z0-9][A-Za-z0-9_-]*$"}
_VARIABLE = {"description": "From the environment.", "type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"}
_QUANTITIES: Mapping[Any, Schema] = {
    Duration: {"type": ["string", "number"], "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d|w))+$", "minimum": 0},
    Size: {"type": ["string", "integer"], "pattern": r"^[0-9]+(\.[0-9]+)? *(B|KB|MB|GB|KiB|MiB|GiB)$", "minimum": 0},
    Rate: {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? */ *[smhd]$"},
}


def schema() -> Schema:
    """Return the JSON Schema of config.toml; of sources it knows the kinds that come with broker."""
    definitions: dict[str, Schema] = {"variable": _VARIABLE}
    nowhere = Path(__file__).parent  # a root without sources of its own, so that the shipped ones are found
    kinds = {kind: _struct(find(kind, nowhere), definitions) for kind in sorted(shipped())}
    for kind, reference in kinds.items():
        definitions[_name(reference)]["properties"]["kind"] = {"const": kind}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "config.toml of broker",
        "type": "object",
        "properties": {
            "broker": _struct(Settings, definitions),
            "functions": _tables(_struct(Function, definitions, given=["name", *UNLISTED])),
            "layers": _tables(_struct(Layer, definitions, given=["name"])),
            "sources": _tables(_source(kinds)),
            "triggers": {"type": "array", "items": _struct(Trigger, definitions)},
        },
        "additionalProperties": False,
        "$defs": definitions,
    }


def _tables(table: Schema) -> Schema:
    return {"type": "object", "propertyNames": _NAMES, "additionalProperties": table}


def _source(kinds: Mapping[str, Schema]) -> Schema:
    """Return the schema of any source: that of its kind when the kind is known, free otherwise."""
    return {
        "type": "object",
        "properties": {
            "kind": {
                "description": "The kind of source, or a file with one: ./my_source.py:Name.",
                "anyOf": [{"enum": list(kinds)}, {"type": "string"}],
            }
        },
        "required": ["kind"],
        "allOf": [
            {"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": reference}
            for kind, reference in kinds.items()
        ],
    }


def _struct(kind: type[msgspec.Struct], definitions: dict[str, Schema], *, given: Collection[str] = ()) -> Schema:
    """Return a reference to the schema of a struct's table, which goes into the definitions."""
    name = kind.__name__
    reference = {"$ref": f"#/$defs/{name}"}
    if name in definitions:
        return reference
    table: Schema = {"description": _summary(kind), "type": "object", "properties": {}}
    definitions[name] = table
    told = _told(kind)
    known = [info for info in fields(kind) if info.encode_name not in given]
    for info in known:
        described = {"description": told[info.name]} if info.name in told else {}
        default = {} if info.default in (msgspec.NODEFAULT, None) else _default(info.default)
        table["properties"][info.encode_name] = {**described, **_value(info.type, definitions), **default}
    if required := [info.encode_name for info in known if info.required]:
        table["required"] = required
    table["additionalProperties"] = False
    return reference


def _value(kind: Any, definitions: dict[str, Schema]) -> Schema:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        members = [_value(member, definitions) for member in arguments if member is not types.NoneType]
        return members[0] if len(members) == 1 else {"anyOf": members}
    if origin in {list, tuple, set, frozenset}:
        return {"type": "array", "items": _value(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _value(arguments[1], definitions)}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct(kind, definitions)
    leaf = dict(_QUANTITIES[kind]) if kind in _QUANTITIES else msgspec.json.schema(kind, schema_hook=_hook)
    # Any value but a plain string, which can be one as it is, may come out of the environment.
    return leaf if leaf in ({}, {"type": "string"}) else {"anyOf": [leaf, {"$ref": "#/$defs/variable"}]}


def _hook(kind: Any) -> Schema:
    return dict(_QUANTITIES.get(kind, {"type": "string"}))


def _default(value: Any) -> Schema:
    if isinstance(value, Duration | Size | Rate):
        return {"default": str(value)}
    if isinstance(value, tuple):
        return {"default": list(value)}
    return {"default": value} if isinstance(value, str | int | float) else {}


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _summary(kind: type) -> str:
    """Return the first paragraph of the class's docstring in one line."""
    return " ".join((inspect.getdoc(kind) or kind.__name__).partition("\n\n")[0].split())


def _told(kind: type) -> dict[str, str]:
    """Return the docstrings that stand below the fields of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    told = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, below in itertools.pairwise(statements):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                told[field.target.id] = " ".join(inspect.cleandoc(text).split())
    return told
